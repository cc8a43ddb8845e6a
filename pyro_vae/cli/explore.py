"""``pyro-vae explore``."""

from __future__ import annotations

from pathlib import Path

from pyro_vae._core.checks import check_count
from pyro_vae._core.distributed import join
from pyro_vae.cli.console import check_out, load, run_parser, say
from pyro_vae.evaluation.caption import caption_of
from pyro_vae.training import RunFolder

_DESCRIPTION = """\
Write one self-contained HTML page on which the latent space of a trained model is explored in a browser: sliders, a map
of the test images' codes, traversals, paths, drawing, samples and bounds. The model runs in the page, without a
network."""


def explore(argv: list[str]) -> None:
    """Write the explorer of a run."""
    parser = run_parser("explore", _DESCRIPTION)
    parser.add_argument("--out", type=Path, help="file to write, .html (default RUN/explorer.html, which is replaced)")
    parser.add_argument("--num_images", type=int, default=500, help="test images on the page (default 500)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file of --out")
    options = vars(parser.parse_args(argv))
    out, overwrite, num = (options.pop(name) for name in ("out", "overwrite", "num_images"))
    check_count("explore", num_images=num)
    check_out(out, overwrite, ".html")
    run = RunFolder(options["run"])
    trained = load(options)
    if join().first:
        from pyro_vae.explorer import explore as write  # here, since it loads scikit-learn

        path = write(
            trained.vae,
            trained.images("test"),
            out or run.path / "explorer.html",
            train=trained.images("train"),
            num_images=num,
            title=f"{trained.protocol['dataset']}: {run.path.resolve().name}",
            caption=caption_of(trained.protocol),
            overwrite=overwrite or not out,
        )
        say(f"explorer: {path}, {path.stat().st_size / 1e6:.2f} MB")
