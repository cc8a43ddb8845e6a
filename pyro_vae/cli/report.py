"""``pyro-vae report``."""

from __future__ import annotations

from pathlib import Path

from pyro_vae._core.distributed import join
from pyro_vae._core.files import write_atomically
from pyro_vae.cli.console import check_out, load, run_parser, say
from pyro_vae.training import RunFolder

_DESCRIPTION = """\
Write one self-contained HTML page of a run: protocol, training curves, bounds, gaps, diagnostics, images,
worst-explained images. This command does not evaluate the run: the page shows the results in the run folder, and lists
the commands for the missing ones."""


def write_report(argv: list[str]) -> None:
    """Write the page of a run."""
    parser = run_parser("report", _DESCRIPTION)
    parser.add_argument("--out", type=Path, help="file to write, .html (default RUN/report.html, which is replaced)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file of --out")
    options = vars(parser.parse_args(argv))
    out, overwrite, run = options.pop("out"), options.pop("overwrite"), RunFolder(options["run"])
    check_out(out, overwrite, ".html")
    trained = load(options)
    if join().first:
        from pyro_vae.experiments.html_report import report  # here, since it loads matplotlib

        path = out or run.path / "report.html"
        write_atomically(path, report(run, trained).encode(), overwrite=overwrite or not out)
        say(f"report: {path}")
