"""Disentanglement on drawn faces: plain ELBO, beta-VAE, BetaTC and FactorVAE, five seeds each.

    python benchmarks/disentanglement.py FOLDER                   # trains what is missing, then prints the table
    python benchmarks/disentanglement.py FOLDER --seconds 540     # stops after that time; the next call goes on

A pair of objective and seed is one run folder and one result file in FOLDER. A process that is killed or out of time
resumes the run. Data, model, optimizer and epochs are the same for all; the seed is that of weights and batches.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from functools import partial
from pathlib import Path

import torch
from record import machine

from pyro_vae import VAE, Faces, fit, guides, likelihoods, networks, objectives, priors
from pyro_vae.evaluation import Disentanglement, disentanglement
from pyro_vae.evaluation.code_metrics import METRICS

OBJECTIVES = {
    "ELBO": objectives.ELBO,
    "BetaTC": partial(objectives.BetaTC, beta=10.0),
    "FactorVAE": partial(objectives.FactorVAE, gamma=10.0),
    "BetaELBO": partial(objectives.BetaELBO, beta=4.0),
}
SEEDS = range(5)
LATENT_DIM, SCALE, EPOCHS, BATCH_SIZE, RATE = 10, 0.2, 30, 64, 1e-3
NET = partial(networks.MLP, hidden=(128, 128), activation="relu")
SHAPE = (1, 32, 32)


def build(seed: int) -> VAE:
    """The model of a seed: normal pixels of a fixed scale."""
    torch.manual_seed(seed)
    likelihood = likelihoods.NormalLikelihood(LATENT_DIM, SHAPE, net=NET, scale=SCALE)
    return VAE(
        priors.StandardNormalPrior(LATENT_DIM), likelihood, guides.DiagonalNormalGuide(SHAPE, LATENT_DIM, net=NET)
    )


def run(folder: Path, name: str, seed: int, data: Faces) -> None:
    """Train and measure one model, unless that was done before."""
    path, run = folder / f"{name}-{seed}.json", folder / f"{name}-{seed}"
    if path.exists():
        return
    splits, vae, start = data.load(), build(seed), time.perf_counter()
    objective = OBJECTIVES[name]()
    options = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "optimizer": partial(torch.optim.Adam, lr=RATE)}
    options |= {"engine": "eager", "seed": seed, "run": run, "resume": run.exists(), "progress": False}
    last = fit(vae.model, vae.guide, splits.train, objective=objective, **options).history[-1:]
    factors = {key: values[splits.test.rows] for key, values in data.factors.items()}
    entries = {"objective": name, "seed": seed, **splits.protocol, "data_sha256": splits.fingerprints["test"]}
    disentanglement(vae, splits.test, factors, num_bootstrap=2, protocol=entries).save(path)
    print(f"{name} seed {seed}: {time.perf_counter() - start:.0f} s {last}", flush=True)


def table(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Mean, standard error over the seeds, smallest and largest value of each metric, by objective."""
    rows = {}
    for name in OBJECTIVES:
        results = [Disentanglement.load(path) for path in sorted(folder.glob(f"{name}-?.json"))]
        if len(results) > 1:
            values = torch.stack([result.values for result in results])  # (seeds, M)
            chance = torch.stack([result.permuted for result in results]).mean(0)
            columns = zip(METRICS, values.T, chance.tolist(), strict=True)
            rows[name] = {metric: {**_statistics(column), "permuted": c} for metric, column, c in columns}
    return rows


def _statistics(values: torch.Tensor) -> dict[str, float]:
    error = float(values.std() / len(values) ** 0.5)
    return {
        "mean": float(values.mean()),
        "error": error,
        "low": float(values.min()),
        "high": float(values.max()),
        "seeds": len(values),
    }


def markdown(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """The table of means and ranges over the seeds, a column for each objective."""
    lines = [f"| metric | {' | '.join(rows)} | permuted factors |", "|---" * (len(rows) + 2) + "|"]
    for metric in METRICS if rows else ():
        cells = [row[metric] for row in rows.values()]
        columns = [f"{cell['mean']:.3f} ({cell['low']:.3f} to {cell['high']:.3f})" for cell in cells]
        lines.append(f"| {metric} | {' | '.join(columns)} | {max(cell['permuted'] for cell in cells):.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=int, default=0, help="stop after this time (default: never)")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--out", type=Path, help="JSON to write the table and the machine to")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))  # fit saves a checkpoint
    signal.alarm(args.seconds)
    data = Faces()
    try:
        for seed in SEEDS:
            for name in args.objectives:
                run(args.folder, name, seed, data)
    except KeyboardInterrupt:
        print("stopped; call again to go on")
    rows = table(args.folder)
    print(markdown(rows))
    if args.out:
        settings = {"latent_dim": LATENT_DIM, "scale": SCALE, "epochs": EPOCHS, "batch_size": BATCH_SIZE, "lr": RATE}
        content = {"table": rows, "settings": settings, "data": repr(data), **machine()}
        args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
