"""Adversarial variational Bayes on MNIST beside a VAE with the same decoder: is the ELBO that it claims a bound?

    python benchmarks/adversarial_bound.py --root data
    python benchmarks/adversarial_bound.py --root data --cases AVB-8 --epochs 1 --images 10 --out DIR   # a trial

The claim of a model on an image is the mean of its objective over 200 samples of the guide; with an implicit guide it
contains the estimate of log q(z given x) by the ratio network. log p(x) of the same images lies between annealed
importance sampling from the prior, a lower bound in expectation, and the same plus the gap of the sandwich, measured on
data simulated from the model. A claim above this interval is no bound. An interrupted call continues where it stopped.

References:
    Adversarial variational Bayes (Mescheder et al., 2017), table 2. https://arxiv.org/abs/1701.04722
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from record import provenance
from torch import Tensor, nn

from pyro_vae import VAE, fit, sandwich
from pyro_vae.data import MNIST
from pyro_vae.evaluation.result import mean_error
from pyro_vae.guides import DiagonalNormalGuide, ImplicitGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import MLP, Shape
from pyro_vae.objectives import ELBO, AdversarialELBO, Objective
from pyro_vae.priors import StandardNormalPrior

RESULTS = Path(__file__).parent / "results" / "learned-losses"
SHAPE, HIDDEN = (1, 28, 28), (200, 200)
CASES = ("VAE-8", "AVB-8", "VAE-32", "AVB-32")
NET = partial(MLP, hidden=HIDDEN)


class Ratio(nn.Module):
    r"""A network of x and the standardized z that also sees :math:`\log(z^2 + 10^{-2})`, so that it finds sharp peaks.

    A guide that contracts around its mean and keeps its covariance by rare outliers is far from a normal distribution
    there, which a network of z alone learns too late.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.net = MLP((in_shape[0] + latent_dim,), out_shape, hidden=(256, 256), activation="silu")

    def forward(self, pairs: Tensor) -> Tensor:
        z = pairs[..., -self.latent_dim :]
        return self.net(torch.cat([pairs, (z.square() + 1e-2).log()], -1))


def build(case: str) -> tuple[VAE, Objective]:
    """The VAE of a case, and its objective."""
    kind, dim = case.split("-")
    latent_dim = int(dim)
    guide: Any = DiagonalNormalGuide(SHAPE, latent_dim, net=NET)
    objective: Objective = ELBO()
    if kind == "AVB":
        guide = ImplicitGuide(SHAPE, latent_dim, noise_dim=latent_dim, net=partial(MLP, hidden=(200,)), hidden=HIDDEN)
        objective = AdversarialELBO(ratio=partial(Ratio, latent_dim=latent_dim), num_moments=64, lr=2e-3)
    likelihood = BernoulliLikelihood(latent_dim, SHAPE, net=NET)
    return VAE(StandardNormalPrior(latent_dim), likelihood, guide), objective


def claims(vae: VAE, objective: Objective, x: Tensor, num_samples: int = 200) -> Tensor:
    """What the objective claims for log p(x) of each image, ``(N,)``, in nats."""
    losses = [objective.loss(vae.model, vae.guide, image.expand(num_samples, *SHAPE)) for image in x]
    return -torch.tensor(losses, dtype=torch.float64) / num_samples


def statistics(values: Tensor) -> dict[str, float]:
    """Mean over the images and its standard error."""
    return {"mean": float(values.mean()), "error": mean_error(values)}


def measure(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train a case, and compare its claim with bounds on log p(x) of the same test images."""
    splits, start = MNIST(args.root).load(), time.perf_counter()
    torch.manual_seed(args.seed)
    vae, objective = build(case)
    options: dict[str, Any] = {
        "epochs": args.epochs,
        "batch_size": 100,
        "seed": args.seed,
        "progress": False,
        "engine": "eager",
    }
    options["optimizer"] = partial(torch.optim.Adam, lr=args.lr)
    options["lr_schedule"] = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=args.epochs)
    history = fit(vae.model, vae.guide, splits.train, objective=objective, **options).history
    print(case, history[-1], flush=True)
    row: dict[str, Any] = {"case": case, "minutes": (time.perf_counter() - start) / 60, "last_epoch": history[-1]}
    torch.manual_seed(0)  # of the binary pixels, the same for every case
    x = splits.test.batch(slice(args.images), dtype=torch.float32)
    path = {"num_distributions": args.distributions, "num_chains": args.chains, "seed": args.seed, "engine": "eager"}
    result, claim = sandwich(vae.model, None, x, **path), claims(vae, objective, x)
    bound, errors, (gap, error) = cast(Tensor, result.log_likelihood), cast(Tensor, result.standard_error), result.gap()
    row |= {"claim": statistics(claim), "ais": statistics(bound), "excess": statistics(claim - bound)}
    row |= {"monte_carlo_error": float(errors.square().sum().sqrt()) / len(x), "gap": {"mean": gap, "error": error}}
    return {**row, "seconds": time.perf_counter() - start}


def verdict(row: dict[str, Any]) -> str:
    """Where the claim lies, by its paired difference from the lower bound and the gap, with 2 standard errors."""
    excess, gap = row["excess"], row["gap"]
    if excess["mean"] > max(0.0, gap["mean"]) + 2 * (excess["error"] ** 2 + gap["error"] ** 2) ** 0.5:
        return "above log p(x)"
    return "below log p(x)" if excess["mean"] < -2 * excess["error"] else "not decided"


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each model."""
    lines = [
        "| model | claim in training | claim | AIS | claim - AIS | gap of the sandwich | the claim is |",
        "|---" * 7 + "|",
    ]
    for row in sorted(rows, key=lambda row: CASES.index(row["case"])):
        cells = [f"{v['mean']:.2f} +- {v['error']:.2f}" for v in (row[k] for k in ("claim", "ais", "excess", "gap"))]
        lines.append(f"| {row['case']} | {row['last_epoch']['elbo']:.2f} | {' | '.join(cells)} | {verdict(row)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure the missing cases, write the record and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", default="data", help="folder with MNIST/raw (%(default)s)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--epochs", type=int, default=6, help="passes over the data (%(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of the VAE (%(default)s)")
    parser.add_argument("--images", type=int, default=40, help="test images (%(default)s)")
    parser.add_argument("--distributions", type=int, default=500, help="of annealed importance sampling (%(default)s)")
    parser.add_argument("--chains", type=int, default=6, help="chains per image (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "adversarial-bound.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    for case in args.cases:
        if not any(row["case"] == case for row in rows):
            rows.append(measure(case, args))
            settings = {k: v for k, v in vars(args).items() if k not in ("root", "out", "cases")}
            record = {"rows": rows, "settings": settings, **provenance(["python benchmarks/adversarial_bound.py"], "")}
            file.write_text(json.dumps(record, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
