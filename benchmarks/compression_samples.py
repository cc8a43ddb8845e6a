"""Code test images with several samples of z each, and draw the rate over their number.

    python benchmarks/compression_samples.py mnist-vae-50 --data.root data

Writes ``results/compression-samples.json`` and ``docs/images/compression-samples.png``. Many short chunks are coded
side by side, so that only the net rate is that of a file.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from compression import model_and_images
from matplotlib.ticker import FixedLocator
from record import RESULTS, machine

from pyro_vae import log_likelihood
from pyro_vae._core.files import json_ready
from pyro_vae.compression.encoder import Encoder
from pyro_vae.plotting.panels import log_axis, page
from pyro_vae.plotting.save import save_png

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "compression-samples.png"


def main() -> None:
    """Measure a model."""
    parser = argparse.ArgumentParser(description="Record the net rate over the number of samples.")
    parser.add_argument("model", help="run folder or name of the model zoo")
    parser.add_argument("--data.root", dest="root", required=True)
    parser.add_argument("--num-data", type=int, default=320)
    parser.add_argument("--num-particles", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50])
    args = parser.parse_args()
    torch.set_num_threads(1)
    vae, images = model_and_images(args.model, args.root)
    torch.manual_seed(0)
    x = images.batch(slice(0, args.num_data), dtype=torch.float32)
    unit = math.prod(x.shape[1:])
    bounds = log_likelihood(vae.model, vae.guide, x, num_samples=1000)
    record = {
        "model": args.model,
        "num_data": len(x),
        "-ELBO": -float(bounds.elbo.mean()) / unit / math.log(2),
        "-log p(x)": -float(bounds.log_likelihood.mean()) / unit / math.log(2),
        "net": {k: _rate(vae, x, k) / unit for k in args.num_particles},
        "machine": machine(),
    }
    (RESULTS / "compression-samples.json").write_text(json.dumps(json_ready(record), indent=1) + "\n")
    print(json.dumps(json_ready(record), indent=1))
    _draw(record)


def _rate(vae: object, x: torch.Tensor, num_particles: int) -> float:
    """Net bits per datum."""
    encoder = Encoder(vae, x, chunk_size=-(-len(x) // 16), num_particles=num_particles)
    return float(np.concatenate([chunk.net_bits for chunk in encoder.chunks()]).mean())


def _draw(record: dict) -> None:
    sizes = list(map(int, record["net"]))
    with page(2.0, "") as (figure, (ax,)):
        ax.plot(sizes, list(record["net"].values()), "o-", label="net code length")
        for name, style in (("-ELBO", "--"), ("-log p(x)", ":")):
            ax.axhline(record[name], color="black", linestyle=style, label=name.replace("-", "\N{MINUS SIGN}"))
        log_axis(ax, sizes, "Samples of z per image")
        ax.xaxis.set_major_locator(FixedLocator(sizes))
        ax.set_ylabel("Bits per dimension")
        ax.legend()
    save_png(figure, FIGURE)


if __name__ == "__main__":
    main()
