"""``pyro-vae report``."""

from __future__ import annotations

from pathlib import Path

from pyro_vae._core.distributed import join
from pyro_vae._core.files import write_atomically
from pyro_vae.cli.console import load, run_parser, say
from pyro_vae.training import RunFolder

_DESCRIPTION = """\
Write one HTML page of a run that needs no other file: protocol, training curves, bounds, gaps, diagnostics, pictures,
worst-explained images. Nothing is evaluated: the page shows the results in the run folder, and says which are missing
and the commands that make them."""


def write_report(words: list[str]) -> None:
    """Write the page of a run."""
    made = run_parser("report", _DESCRIPTION)
    made.add_argument(
        "--out", type=Path, help="file to write, .html; default: RUN/report.html, which is replaced, being derived"
    )
    made.add_argument("--overwrite", action="store_true", help="replace the file that --out names")
    options = vars(made.parse_args(words))
    out, overwrite, run = options.pop("out"), options.pop("overwrite"), RunFolder(options["run"])
    if out and out.suffix != ".html":
        raise ValueError(f"--out: must end in .html, got {out}. Choose another name.")
    if overwrite and not out:
        raise ValueError("--overwrite: must come with --out, got it alone. Leave it away: RUN/report.html is replaced.")
    if out and out.exists() and not overwrite and join().first:
        raise FileExistsError(f"--out: {out} must not exist yet, got one. Replace it with --overwrite.")
    trained = load(options)
    if join().first:
        from pyro_vae.experiments.html_report import report  # here, since it loads matplotlib

        path = out or run.path / "report.html"
        write_atomically(path, report(run, trained).encode(), overwrite=overwrite or not out)
        say(f"report: {path}")
