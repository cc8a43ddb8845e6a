"""Completion of images from one quadrant: the CVAE of Pyro's tutorial, trained by plain Pyro, and ConditionalVAE.

    python benchmarks/conditional.py --root data --epochs 8 --images 1000 --out result.json --plot figures
    python benchmarks/conditional.py                          # scikit-learn's digits, enlarged; a minute

The model is given the lower left quadrant and completes the other three. All are trained on the same binary images,
sampled anew for every batch, with Adam at 1e-3 and batches of 128, 500-500 units with ReLU, and keep the weights of the
best epoch by the validation loss. Pyro's tutorial (https://pyro.ai/examples/cvae.html, examples/cvae in its repository)
first trains a network that predicts the missing pixels, the baseline, and gives its prediction to the prior network;
the decoder sees z alone. There grey levels are the targets of the Bernoulli likelihood, which is then no probability.

"log p" is the conditional log-likelihood of the missing pixels: exact for the baseline, whose pixels are independent;
importance-weighted for the others, by one estimator, from each model's guide, on the same test images. Differences are
paired over these images.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from images import load
from pyro.infer import SVI, Trace_ELBO
from report import environment, table
from timing import log
from torch import Tensor, nn

from pyro_vae import ConditionalVAE, fit, log_likelihood
from pyro_vae.data import ImageSet
from pyro_vae.data.batches import Batches
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.models.build import build_conditional
from pyro_vae.models.given import given_part
from pyro_vae.networks import MLP
from pyro_vae.plotting.save import save_png
from pyro_vae.priors import ConditionalPrior

SHAPE, PIXELS, BATCH, LR = (1, 28, 28), 784, 128, 1e-3
Record = dict[str, Any]


class Baseline(nn.Module):
    """The tutorial's network of the seen pixels, -1 elsewhere, to the probabilities of all pixels."""

    def __init__(self, seen: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("seen", seen.flatten())
        self.net = perceptron(PIXELS, width, PIXELS)

    def forward(self, xs: Tensor) -> Tensor:
        return self.net(xs).sigmoid()

    def inputs(self, x: Tensor) -> Tensor:
        """Images as the network's inputs, ``(*batch, 784)``."""
        return torch.where(self.seen, x.flatten(-3), -1.0)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p of the missing pixels, ``(batch,)``."""
        p = dist.Bernoulli(self(self.inputs(x))[..., ~self.seen]).to_event(1)
        return p.log_prob(x.flatten(-3)[..., ~self.seen])


class Encoder(nn.Module):
    """The tutorial's network of an image to the parameters of z."""

    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(PIXELS, width), nn.Linear(width, width)
        self.fc31, self.fc32 = nn.Linear(width, latent_dim), nn.Linear(width, latent_dim)

    def forward(self, xc: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.fc2(self.fc1(xc).relu()).relu()
        return self.fc31(hidden), self.fc32(hidden).exp()


class Tutorial(nn.Module):
    """The tutorial's CVAE as a Pyro model and guide of an image."""

    def __init__(self, baseline: Baseline, latent_dim: int, width: int) -> None:
        super().__init__()
        self.baseline = baseline.requires_grad_(False)
        self.prior_net, self.recognition_net = Encoder(latent_dim, width), Encoder(latent_dim, width)
        self.generation_net = perceptron(latent_dim, width, PIXELS)

    def model(self, x: Tensor) -> None:
        """p(z | seen) p(missing | z)."""
        for name in ("prior_net", "recognition_net", "generation_net"):
            pyro.module(name, getattr(self, name))
        with pyro.plate("data", x.shape[0], dim=-1):
            y_hat = self.baseline(self.baseline.inputs(x))
            loc, scale = self.prior_net(torch.where(self.baseline.seen, x.flatten(1), y_hat))
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            probs = self.generation_net(z).sigmoid()[..., ~self.baseline.seen]
            pyro.sample("y", dist.Bernoulli(probs).to_event(1), obs=x.flatten(1)[..., ~self.baseline.seen])

    def guide(self, x: Tensor) -> None:
        """q(z | x)."""
        with pyro.plate("data", x.shape[0], dim=-1):
            pyro.sample("z", dist.Normal(*self.recognition_net(x.flatten(1))).to_event(1))


def perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    layers = nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
    return nn.Sequential(*layers)


def ours(given: Any, latent_dim: int, width: int) -> ConditionalVAE:
    """ConditionalVAE of the same sizes, whose prior and decoder take the seen pixels."""
    net = partial(MLP, hidden=(width, width), activation="relu")
    likelihood, guide = (partial(piece, net=net) for piece in (BernoulliLikelihood, DiagonalNormalGuide))
    return build_conditional(SHAPE, latent_dim, given, ConditionalPrior, likelihood, guide, guide)


def train_plainly(module: nn.Module, step: Any, loss: Any, train: ImageSet, held_out: Tensor, epochs: int) -> Record:
    """Train by the tutorial's loop, and keep the weights of the epoch with the lowest loss of the held-out images."""
    best, history = None, []
    batches, start = Batches(train, BATCH, shuffle_seed=0), time.perf_counter()
    for epoch in range(epochs):
        for batch in batches.epoch(epoch):
            step(batch.args[0])
        history.append(sum(loss(x) for x in held_out.split(1000)) / len(held_out))
        log(f"{type(module).__name__}, epoch {epoch + 1}: {history[-1]:.3f}")
        if history[-1] == min(history):
            best = copy.deepcopy(module.state_dict())
    module.load_state_dict(best or {})
    module.eval()
    return {"minutes": (time.perf_counter() - start) / 60, "best_epoch": 1 + history.index(min(history))}


def train_baseline(baseline: Baseline, train: ImageSet, held_out: Tensor, epochs: int) -> Record:
    optimizer = torch.optim.Adam(baseline.parameters(), lr=LR)

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        (-baseline.log_prob(x).mean()).backward()
        optimizer.step()

    def loss(x: Tensor) -> float:
        with torch.no_grad():
            return -float(baseline.log_prob(x).sum())

    return train_plainly(baseline, step, loss, train, held_out, epochs)


def train_tutorial(tutorial: Tutorial, train: ImageSet, held_out: Tensor, epochs: int) -> Record:
    pyro.clear_param_store()
    svi = SVI(tutorial.model, tutorial.guide, pyro.optim.Adam({"lr": LR}), Trace_ELBO())
    return train_plainly(tutorial, svi.step, svi.evaluate_loss, train, held_out, epochs)


def train_ours(vae: ConditionalVAE, train: ImageSet, held_out: ImageSet, epochs: int) -> Record:
    vae.likelihood.initialise_mean(train.mean())
    start, optimizer = time.perf_counter(), partial(torch.optim.Adam, lr=LR)
    options = {"batch_size": BATCH, "epochs": epochs, "patience": epochs, "optimizer": optimizer}
    result = fit(vae.model, vae.guide, train, validation=held_out, progress=False, **options)
    return {"minutes": (time.perf_counter() - start) / 60, "best_epoch": result.best_epoch}


def rows_of(programs: dict[str, Any], baseline: Baseline, x: Tensor, num_samples: int) -> list[Record]:
    """Conditional log-likelihood of every model on the test images, and the gain over the tutorial's."""
    with torch.no_grad():
        values = {"tutorial's baseline": (baseline.log_prob(x).double(), torch.zeros(len(x)), None)}
    for name, (model, guide) in programs.items():
        result = log_likelihood(model, guide, x, num_samples=num_samples, batch_size=20)
        values[name] = (result.log_likelihood.double(), result.standard_error.double(), result)
    reference, rows = values["tutorial's CVAE"][0], []
    for name, (value, error, result) in values.items():
        row = {"model": name, "log_p": float(value.mean()), "over_images": standard_error(value)}
        row |= {"monte_carlo": float(error.square().sum().sqrt()) / len(x), "gain": float((value - reference).mean())}
        row |= {"gain_error": standard_error(value - reference)}
        if result is not None:
            row |= {"elbo": result.mean("elbo"), "pareto_k_above_0.7": result.untrusted()}
        rows.append(row)
    return rows


def standard_error(values: Tensor) -> float:
    return float(values.std() / len(values) ** 0.5)


def text(rows: list[Record]) -> str:
    header = ["model", "log p", "over images", "Monte Carlo", "ELBO", "gain over the tutorial's CVAE"]
    cells = [
        [
            *(row["model"], f"{row['log_p']:.2f}", f"{row['over_images']:.2f}", f"{row['monte_carlo']:.3f}"),
            *(f"{row['elbo']:.2f}" if "elbo" in row else "-", f"{row['gain']:.2f} +- {row['gain_error']:.2f}"),
        ]
        for row in rows
    ]
    return table(header, cells)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", help="folder with MNIST/raw (default: scikit-learn's digits, enlarged)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of each training (%(default)s)")
    parser.add_argument("--given", default="bottom-left", help="part of the images that is given (%(default)s)")
    parser.add_argument("--latent-dim", type=int, default=200, help="latent dimensions (%(default)s)")
    parser.add_argument("--width", type=int, default=500, help="units of the hidden layers (%(default)s)")
    parser.add_argument("--images", type=int, default=2000, help="number of test images (%(default)s)")
    parser.add_argument("--num-samples", type=int, default=500, help="samples per test image (%(default)s)")
    parser.add_argument("--date", help="date of the record (default: today)")
    parser.add_argument("--out", type=Path, help="JSON file for the record")
    parser.add_argument("--plot", type=Path, help="folder for a figure of completions")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    data, images = load(options.root)
    test, size = load(options.root, test=True)[1], len(images) // 6
    train, held_out = images.subset(slice(size, None)), images.subset(slice(size))
    generator = torch.Generator().manual_seed(0)
    fixed = held_out.batch(slice(None), dtype=torch.float32, generator=generator)
    x = test.batch(slice(options.images), dtype=torch.float32, generator=generator)
    given = given_part(options.given, SHAPE)
    baseline = Baseline(given.seen, options.width)
    trainings = {"tutorial's baseline": train_baseline(baseline, train, fixed, options.epochs)}
    tutorial = Tutorial(baseline, options.latent_dim, options.width)
    trainings["tutorial's CVAE"] = train_tutorial(tutorial, train, fixed, options.epochs)
    vae = ours(given, options.latent_dim, options.width)
    trainings["ConditionalVAE"] = train_ours(vae, train, ImageSet(fixed), options.epochs)
    programs = {"tutorial's CVAE": (tutorial.model, tutorial.guide), "ConditionalVAE": (vae.model, vae.guide)}
    record: Record = environment(options.date, torch.device("cpu"))
    sizes = {key: getattr(options, key) for key in ("given", "epochs", "latent_dim", "width", "num_samples")}
    record["protocol"] = {"data": data, "train": len(train), "test": len(x), **sizes}
    record |= {"rows": rows_of(programs, baseline, x, options.num_samples), "trainings": trainings}
    print(text(record["rows"]))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    if options.plot:
        from pyro_vae.plotting import completions

        options.plot.mkdir(parents=True, exist_ok=True)
        save_png(completions(vae, x, caption=f"{data}, given {options.given}"), options.plot / "completions.png")


if __name__ == "__main__":
    main()
