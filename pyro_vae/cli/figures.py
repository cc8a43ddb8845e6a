"""``pyro-vae figures``."""

from __future__ import annotations

from pathlib import Path

from pyro_vae._core.checks import require
from pyro_vae._core.distributed import join
from pyro_vae.cli.console import load, note, run_parser, say
from pyro_vae.experiments.results import results_of
from pyro_vae.training import RunFolder

_DESCRIPTION = """\
Draw the figures of a run and of its results for a paper, a column wide: as PDF, SVG or PNG without captions, which go
to text files beside them. Existing files of the same names are replaced. This command does not evaluate the run."""


def draw_figures(argv: list[str]) -> None:
    """Draw the figures of a run in another format."""
    parser = run_parser("figures", _DESCRIPTION)
    parser.add_argument("--format", choices=["pdf", "svg", "png"], default="pdf", help="of the files (default pdf)")
    parser.add_argument("--dpi", type=int, default=300, help="pixels per inch of images and of PNGs (default 300)")
    parser.add_argument("--out", type=Path, help="folder to write to (default RUN/figures)")
    options = vars(parser.parse_args(argv))
    out, dpi, suffix = options.pop("out"), options.pop("dpi"), options.pop("format")
    run = RunFolder(options["run"])
    folder = out or run.figures
    require(10 <= dpi <= 2400, "--dpi", "must be an integer in 10..2400", dpi)
    require(not folder.is_file(), "--out", "must be a folder", f"{folder}, which is a file")
    trained = load(options)
    if join().first:
        from pyro_vae.plotting import caption_of, result_figure, save_for_paper  # here, since it loads matplotlib
        from pyro_vae.plotting.save import run_figures

        results = {path.stem: result for path, result in results_of(run).current.items()}
        figures = run_figures(trained.vae, trained.splits, run.metrics(), caption=caption_of(trained.protocol))
        for name, result in results.items():
            try:
                figures[name] = result_figure(result, caption=result.caption())
            except ValueError as reason:
                note(f"no figure {name}: {reason}")
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            save_for_paper(figure, folder / f"{name}.{suffix}", dpi=dpi)
        say(f"{len(figures)} figures: {folder}/")
