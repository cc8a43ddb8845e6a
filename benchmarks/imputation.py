"""Imputation of three tables of scikit-learn, against its KNNImputer and IterativeImputer at their defaults.

    python benchmarks/imputation.py
    python benchmarks/imputation.py --tables wine --rates 0.5 --masks 3 --out imputation

Entries are deleted completely at random, at three rates and with several masks. The imputers see columns that are
standardized by their observed values. The error is the root mean squared error of the deleted entries, each in units of
its column's standard deviation; the mean of the column has an error of about 1.

The model is a MIWAE with a Student t likelihood: a mean over several trainings, each with another tenth of the observed
entries hidden, whose error chooses the step at which the training ends. No choice uses a deleted entry. An interrupted
run continues where it stopped.

References:
    MIWAE: deep generative modelling and imputation of incomplete data sets (Mattei and Frellsen, 2019).
    https://arxiv.org/abs/1812.02633
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
import warnings
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from record import provenance
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer

from pyro_vae import VAE, fit, objectives
from pyro_vae.evaluation import Imputation, impute
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import StudentTLikelihood
from pyro_vae.networks import MLP, ZeroFilledNetwork
from pyro_vae.priors import StandardNormalPrior

RESULTS = Path(__file__).parent / "results" / "imputation"
TABLES = {"wine": load_wine, "breast cancer": load_breast_cancer, "diabetes": load_diabetes}
RATES = (0.2, 0.5, 0.8)
LATENT_DIM, HIDDEN, ENCODER = 8, (32,), (64,)
PARTICLES, BATCH, LEARNING_RATE, STEPS, CHECK_EVERY, HIDDEN_SHARE = 20, 128, 1e-2, 1200, 60, 0.1


def deleted(shape: tuple[int, ...], rate: float, number: int) -> np.ndarray:
    """The mask of a number, True where an entry is deleted."""
    return np.random.default_rng([number, round(100 * rate)]).random(shape) < rate


def model_of(dim: int, seed: int) -> VAE:
    torch.manual_seed(seed)
    likelihood = StudentTLikelihood(LATENT_DIM, (dim,), net=partial(MLP, hidden=HIDDEN), scale="pixel", min_scale=0.05)
    encoder = partial(ZeroFilledNetwork, net=partial(MLP, hidden=ENCODER))
    guide = DiagonalNormalGuide((dim,), LATENT_DIM, net=encoder)
    return VAE(StandardNormalPrior(LATENT_DIM), likelihood, guide, missing=True)


def trained(x: torch.Tensor, seed: int, steps: int) -> VAE:
    """A model of a table whose training ends at the smallest error of hidden entries."""
    vae, hidden = model_of(x.shape[1], seed), torch.from_numpy(deleted(tuple(x.shape), HIDDEN_SHARE, seed)) & ~x.isnan()
    kept, best, epoch = x.masked_fill(hidden, torch.nan), [math.inf, copy.deepcopy(vae.state_dict())], [0]
    size = min(BATCH, len(x))
    per_epoch = -(-len(x) // size)

    def monitor() -> dict[str, float]:
        epoch[0] += 1
        if epoch[0] % (CHECK_EVERY // per_epoch):
            return {}
        imputed = impute(vae, kept, num_samples=200, num_draws=1, batch_size=1000, chunk_size=200).mean
        error = float((imputed - x)[hidden].square().mean().sqrt())
        if error < best[0]:
            best[:] = [error, copy.deepcopy(vae.state_dict())]
        return {"hidden_error": error}

    fit(
        vae.model,
        vae.guide,
        kept,
        epochs=steps // per_epoch,
        batch_size=size,
        objective=objectives.IWAE(num_particles=PARTICLES),
        optimizer=partial(torch.optim.Adam, lr=LEARNING_RATE),
        monitor=monitor,
        seed=seed,
        progress=False,
    )
    vae.load_state_dict(best[1])
    return vae


def miwae(x: np.ndarray, seed: int, members: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Imputed values, and 200 draws of each member ``(200 * members, *x.shape)``."""
    values = torch.from_numpy(x).float()
    results: list[Imputation] = []
    for member in range(members):
        vae = trained(values, 1000 * seed + member, steps)
        results.append(impute(vae, values, num_samples=1000, num_draws=200, seed=member))
    average = torch.stack([r.mean for r in results]).mean(0)
    return average.numpy(), torch.cat([r.draws for r in results]).numpy()


def measure(name: str, rate: float, number: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The errors of all methods on one table with one mask."""
    x = TABLES[name]().data
    mask = deleted(x.shape, rate, number)
    observed = np.where(mask, np.nan, x)
    centre, scale = np.nanmean(observed, 0), np.nanstd(observed, 0)
    z, truth, unit = (observed - centre) / scale, (x - centre) / scale, scale / x.std(0)
    draws = None

    def ours(table: np.ndarray) -> np.ndarray:
        nonlocal draws
        imputed, draws = miwae(table, number, options.members, options.steps)
        return imputed

    methods = {
        "KNNImputer": KNNImputer().fit_transform,
        "IterativeImputer": IterativeImputer(random_state=number).fit_transform,
        "MIWAE": ours,
    }
    rows = []
    for method, function in methods.items():
        start = time.perf_counter()
        error = ((function(z) - truth) * unit)[mask]
        row = {"table": name, "rate": rate, "mask": number, "method": method, "seconds": time.perf_counter() - start}
        rows.append({**row, "rmse": float(np.sqrt((error**2).mean()))})
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    rows[-1]["coverage"] = float(((low <= truth) & (truth <= high))[mask].mean())
    return rows


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """A table of the mean errors, with their standard errors over the masks, and of the gains over the better imputer.

    The gain is paired over the masks.
    """
    lines = [
        "| table | missing | KNNImputer | IterativeImputer | MIWAE | gain | 90% intervals |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rate in dict.fromkeys((r["table"], r["rate"]) for r in rows):
        cell = [r for r in rows if (r["table"], r["rate"]) == (name, rate)]
        of = {m: [r["rmse"] for r in cell if r["method"] == m] for m in dict.fromkeys(r["method"] for r in cell)}
        best = min(("KNNImputer", "IterativeImputer"), key=lambda m: mean(of[m]))
        gain = [a - b for a, b in zip(of[best], of["MIWAE"], strict=True)]
        covered = mean(r["coverage"] for r in cell if "coverage" in r)
        texts = [*(_text(values, "") for values in of.values()), _text(gain, "+"), f"{covered:.1%}"]
        lines.append(f"| {name} | {rate:.0%} | {' | '.join(texts)} |")
    return lines


def _text(values: list[float], sign: str) -> str:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{mean(values):{sign}.3f} +- {error:.3f}"


def main(argv: list[str] | None = None) -> None:
    """Measure, write the record after every mask, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES), help="shares deleted (%(default)s)")
    parser.add_argument("--masks", type=int, default=3, help="number of masks (%(default)s)")
    parser.add_argument("--members", type=int, default=2, help="trainings that are averaged (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="most steps of a training (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore", ConvergenceWarning)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "imputation.json"
    protocol = {"members": options.members, "steps": options.steps, "particles": PARTICLES, "latent_dim": LATENT_DIM}
    record = json.loads(file.read_text()) if file.exists() else {"protocol": protocol, "results": []}
    if record["protocol"] != protocol:
        raise SystemExit(f"imputation: {file} must be of these options, got {record['protocol']}. Use another --out.")
    for number in range(options.masks):
        for name in options.tables:
            for rate in options.rates:
                if any((r["table"], r["rate"], r["mask"]) == (name, rate, number) for r in record["results"]):
                    continue
                rows = measure(name, rate, number, options)
                record["results"] += rows
                record["results"].sort(key=lambda r: ([*TABLES].index(r["table"]), r["rate"], r["mask"]))
                record |= provenance(["python benchmarks/imputation.py"], "")
                file.write_text(json.dumps(record, indent=1) + "\n")
                print(f"mask {number}:", summary(rows)[-1], flush=True)
    print("\n".join(summary(record["results"])))


if __name__ == "__main__":
    main()
