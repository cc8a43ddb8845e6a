"""Marginal likelihood against training for AEVB, wake-sleep and Monte Carlo EM: figure 3 of the AEVB paper.

    python benchmarks/aevb.py                                          # the digits
    python benchmarks/aevb.py --data mnist --root ../shared/data --sizes 1000 50000 --images 10000000

One hidden layer of 100 tanh units, 3 latents, batches of 100, Adagrad with the same rate for all, weights from N(0,
0.01). AEVB and wake-sleep take one sample per image and step. Monte Carlo EM takes one HMC transition of 10 leapfrog
steps per image and 5 gradient steps per batch, as in the paper; its chains continue from one epoch to the next, and
its acceptance rate is adapted to 0.65, not 0.9. The marginal likelihood is estimated by importance sampling from the
prior along the training, and at its end also by the estimator of appendix D. A repeated command continues.

References:
    Auto-Encoding Variational Bayes (Kingma and Welling, 2014), section 5 and appendix D.
    https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Adagrad

from pyro_vae import ELBO, MLP, MNIST, VAE, BernoulliLikelihood, DiagonalNormalGuide, Digits, StandardNormalPrior, fit
from pyro_vae.evaluation import harmonic_log_likelihood, log_likelihood, prior_proposal
from pyro_vae.objectives import WakeSleep
from pyro_vae.plotting import PALETTE
from pyro_vae.training import fit_em

RESULTS = Path(__file__).parent / "results" / "aevb"
METHODS = {"AEVB": "-", "wake-sleep": "--", "Monte Carlo EM": ":"}
LATENTS, HIDDEN, BATCH = 3, 100, 100
HARMONIC: dict[str, Any] = {"num_samples": 400, "num_fitted": 400, "num_chains": 8, "warmup": 50, "engine": "eager"}


def build(data_shape: tuple[int, ...], seed: int) -> VAE:
    """The paper's model with 3 latents."""
    torch.manual_seed(seed)
    net = partial(MLP, hidden=(HIDDEN,), activation="tanh")
    likelihood = BernoulliLikelihood(LATENTS, data_shape, net=net)
    vae = VAE(StandardNormalPrior(LATENTS), likelihood, DiagonalNormalGuide(data_shape, LATENTS, net=net))
    for parameter in vae.parameters():
        nn.init.normal_(parameter, std=0.01**0.5)
    return vae


def checkpoints(images: int, epoch: int) -> set[int]:
    """Epochs at which to estimate: about three in every factor of ten of images."""
    marks = [images * 10 ** (-k / 3) for k in range(6)]
    return {max(1, round(mark / epoch)) for mark in marks}


class Curve:
    """The estimates along a training; an instance is a monitor of ``fit``."""

    def __init__(self, vae: VAE, train: Tensor, test: Tensor, options: argparse.Namespace) -> None:
        self.vae, self.splits, self.options = vae, {"train": train[: len(test)], "test": test}, options
        self.epoch, self.size, self.points = 0, len(train), list[dict[str, Any]]()
        self.marks, self.start = checkpoints(options.images, len(train)), time.perf_counter()

    def __call__(self) -> dict[str, float]:
        self.epoch += 1
        if self.epoch in self.marks:
            self.points.append({"images": self.epoch * self.size, "seconds": time.perf_counter() - self.start})
            self.points[-1] |= {name: self.estimate(x) for name, x in self.splits.items()}
        return {}

    def estimate(self, x: Tensor) -> list[float]:
        """Mean log p(x) by importance sampling from the prior, and its standard error over the images."""
        num = self.options.num_samples
        result = log_likelihood(self.vae.model, prior_proposal(self.vae.model), x, num_samples=num, engine="eager")
        return [result.mean(), float(result.log_likelihood.std() / len(x) ** 0.5)]


def train(method: str, size: int, seed: int, data: Sequence[Tensor], options: argparse.Namespace) -> dict[str, Any]:
    """Train by one method, and return its curve and the estimate of appendix D."""
    x, test = data[0][:size], data[1][: options.test]
    vae, epochs = build(tuple(x.shape[1:]), seed), -(-options.images // size)
    curve, optimizer = Curve(vae, x, test, options), partial(Adagrad, lr=options.lr)
    shared: dict[str, Any] = {"optimizer": optimizer, "seed": seed, "monitor": curve, "batch_size": BATCH}
    if method == "Monte Carlo EM":
        sizes = {"num_transitions": 1, "num_steps": 10, "m_steps": 5}
        fit_em(vae.model, x, e_step="monte-carlo", iterations=epochs, **sizes, **shared)
    else:
        objective = ELBO() if method == "AEVB" else WakeSleep()
        fit(
            vae.model, vae.guide, x, epochs=epochs, objective=objective, engine=options.engine, progress=False, **shared
        )
    seconds = time.perf_counter() - curve.start
    end = appendix_d(vae, test[: options.harmonic]) if seed == options.seeds[0] else {}
    return {"method": method, "size": size, "seed": seed, "seconds": seconds, "curve": curve.points, "end": end}


def appendix_d(vae: VAE, x: Tensor) -> dict[str, Any]:
    """log p(x) by posterior samples and by importance sampling, and their difference: means and errors over images."""
    posterior = harmonic_log_likelihood(vae.model, None, x, **HARMONIC)
    importance = log_likelihood(vae.model, prior_proposal(vae.model), x, num_samples=10_000, engine="eager")
    gap = posterior.log_likelihood - importance.log_likelihood
    values = {"appendix_d": posterior.log_likelihood, "importance": importance.log_likelihood, "difference": gap}
    means = {name: [float(value.mean()), float(value.std() / len(x) ** 0.5)] for name, value in values.items()}
    return {**means, "r_hat_above_1.05": posterior.summary()["r_hat_above_1.05"]}


def draw(record: dict[str, Any], file: Path) -> None:
    """A panel per number of training images, as in the paper: a line per method and split, averaged over seeds."""
    sizes = sorted({run["size"] for run in record["runs"]})
    figure = Figure(figsize=(4.2 * len(sizes), 3.8), layout="constrained")
    axes = figure.subplots(1, len(sizes), squeeze=False, sharex=True)[0]
    for panel, size in zip(axes, sizes, strict=True):
        for colour, method in zip(PALETTE, METHODS, strict=False):
            curves = [run["curve"] for run in record["runs"] if (run["method"], run["size"]) == (method, size)]
            if not curves:
                continue
            images = [point["images"] for point in curves[0]]
            for split, line in (("train", ":"), ("test", "-")):
                values = torch.tensor([[point[split][0] for point in curve] for curve in curves])
                panel.plot(images, values.mean(0), color=colour, linestyle=line, label=f"{method}, {split}")
                panel.fill_between(images, values.amin(0), values.amax(0), color=colour, alpha=0.15, linewidth=0)
        panel.set(xscale="log", xlabel="training images seen", title=f"{size} training images")
    axes[0].set_ylabel("log p(x) in nats per image")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)


def main(argv: list[str] | None = None) -> None:
    """Train, write the record after each run, and draw the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--root", default="data", help="folder of MNIST")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1300], help="training images (%(default)s)")
    parser.add_argument("--images", type=int, default=20_800, help="images seen in training (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--lr", type=float, default=0.1, help="rate of Adagrad (%(default)s)")
    parser.add_argument("--num-samples", type=int, default=500, help="samples of the prior per image (%(default)s)")
    parser.add_argument("--test", type=int, default=100, help="test images of the curves (%(default)s)")
    parser.add_argument("--harmonic", type=int, default=50, help="test images of appendix D (%(default)s)")
    parser.add_argument("--engine", default="eager", help="of fit (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{options.data}.json"
    splits = (Digits(binarize="fixed") if options.data == "digits" else MNIST(options.root, binarize="fixed")).load()
    data = tuple(split.batch(slice(None), dtype=torch.float32) for split in (splits.train, splits.test))
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "root", "sizes", "seeds", "methods")}
    record = json.loads(file.read_text()) if file.exists() else {"settings": settings, "runs": []}
    known = {(run["method"], run["size"], run["seed"]) for run in record["runs"]}
    for seed, size, method in ((a, b, c) for a in options.seeds for b in options.sizes for c in options.methods):
        if (method, size, seed) not in known:
            record["runs"].append(train(method, size, seed, data, options))
            record |= {"date": str(date.today()), "versions": {n: version(n) for n in ("torch", "pyro-ppl")}}
            file.write_text(json.dumps(record, indent=1) + "\n")
            last = record["runs"][-1]
            value = f"{last['curve'][-1]['test'][0]:.2f} ({last['seconds']:.0f} s)"
            print(f"{method:15} N={size:5} seed {seed}: {value}", flush=True)
    draw(record, file.with_suffix(".png"))


if __name__ == "__main__":
    main()
