"""VAE/GAN beside a VAE with the same networks, on drawn faces and on Frey Faces: reconstructions, samples, arithmetic.

    python benchmarks/vae_gan.py --root data --work DIR                      # trains what is missing, then the figure
    python benchmarks/vae_gan.py --root data --work DIR --runs NAME=FOLDER   # with a run of pyro-vae train in addition

The VAE has normal pixels with one learned scale. Distances of features are those of a classifier that none of the
models was trained with: of smile, turn and glasses on drawn faces; on Frey Faces, which have no classes, of a network
with random weights. Pixel distances are root mean squares. The quality of samples is that of decoded means, beside that
of as many training images. A face gets glasses, on Frey Faces a bright mouth, by the attribute vector of its code;
AtDot is the area under the ROC curve of that vector on test faces. An interrupted call continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from record import provenance
from torch import Tensor

from pyro_vae import VAE, Faces, FreyFaces, fit, latents, load_run
from pyro_vae.data import ImageSet, Splits
from pyro_vae.evaluation import sample_quality
from pyro_vae.evaluation.confidence_interval import mean_interval
from pyro_vae.evaluation.image_features import ImageFeatures
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import ImplicitLikelihood, NormalLikelihood
from pyro_vae.networks import MLP, ConvEncoder
from pyro_vae.objectives import ELBO, AdversarialReconstruction, Objective
from pyro_vae.plotting.panels import page, show_grid
from pyro_vae.priors import StandardNormalPrior
from pyro_vae.training import RunFolder

RESULTS = Path(__file__).parent / "results" / "learned-losses"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "vae-gan.png"
LATENT_DIM, BATCH_SIZE, HIDDEN, CHANNELS = 16, 64, (256, 256), (16, 32)
LR, FEATURE_STEPS = 1e-3, 300
QUALITIES = ("Frechet distance", "precision", "recall", "sharpness of means")


@dataclass(frozen=True)
class Problem:
    """Images with classes for the features, and a feature of the image that a code is changed by."""

    splits: Splits
    train: ImageSet
    test: ImageSet
    attribute: tuple[Tensor, Tensor]  # of training and test images, bool
    name: str

    @cached_property
    def features(self) -> ImageFeatures:
        """Those of the distances of reconstructions and samples."""
        return ImageFeatures(self.train, num_steps=FEATURE_STEPS)


def drawn_faces(root: str) -> Problem:
    data = Faces(size=16)
    splits = data.load()
    smile, turn, glasses = (data.factors[name] for name in ("smile", "turn", "glasses"))
    classes = (smile > 0).long() + 2 * (turn > 0) + 4 * (glasses > 0)
    labelled = [replace(images, labels=classes[images.rows]) for images in (splits.train, splits.test)]
    return Problem(splits, *labelled, tuple(glasses[images.rows] > 0 for images in labelled), "glasses")


def frey_faces(root: str) -> Problem:
    splits = FreyFaces(root).load()
    mouths = [images.batch(slice(None))[:, 0, 18:23, 6:15].mean((1, 2)) for images in (splits.train, splits.test)]
    bright = tuple(mouth > mouths[0].quantile(0.75) for mouth in mouths)
    return Problem(splits, splits.train, splits.test, bright, "bright mouth")


PROBLEMS: dict[str, tuple[Callable[[str], Problem], int]] = {"Faces": (drawn_faces, 40), "FreyFaces": (frey_faces, 60)}
"""Each data set, with the number of epochs."""
CASES = ("VAE", "VAE/GAN")


def build(case: str, shape: tuple[int, ...], seed: int) -> tuple[VAE, Objective]:
    """The model of a case and a seed, and its objective, with the package's defaults."""
    torch.manual_seed(seed)
    net = partial(MLP, hidden=HIDDEN, activation="relu")
    discriminator = partial(ConvEncoder, channels=CHANNELS, activation="leaky_relu")
    guide = DiagonalNormalGuide(shape, LATENT_DIM, net=net)
    likelihood: Any = NormalLikelihood(LATENT_DIM, shape, net=net, scale="global")
    objective: Objective = ELBO()
    if case == "VAE/GAN":
        likelihood = ImplicitLikelihood(LATENT_DIM, shape, net=net)
        objective = AdversarialReconstruction(discriminator=discriminator)
    return VAE(StandardNormalPrior(LATENT_DIM), likelihood, guide), objective


def run_of(work: Path, data: str, case: str, seed: int, epochs: int) -> Path:
    return work / f"{data}-{case.replace('/', '')}-{epochs}-{seed}"


def restored(case: str, problem: Problem, seed: int, run: Path) -> VAE:
    """A model with the weights of its run."""
    vae, _ = build(case, problem.splits.data_shape, seed)
    vae.load_state_dict(RunFolder(run).load_weights())
    return vae


def evaluated(data: str, case: str, problem: Problem, seed: int, epochs: int, work: Path) -> dict[str, Any]:
    """The numbers of a model, which is trained, or resumed, if they are missing."""
    run = run_of(work, data, case, seed, epochs)
    path = run.with_suffix(".json")
    if not path.exists():
        start, (vae, objective) = time.perf_counter(), build(case, problem.splits.data_shape, seed)
        options: dict[str, Any] = {"epochs": epochs, "batch_size": BATCH_SIZE, "seed": seed, "progress": False}
        options |= {"optimizer": partial(torch.optim.Adam, lr=LR), "engine": "eager"}
        fit(vae.model, vae.guide, problem.splits.train, objective=objective, run=run, resume=run.exists(), **options)
        row = {"data": data, "model": case, "seed": seed, "last_epoch": RunFolder(run).metrics()[-1]}
        path.write_text(json.dumps({**row, **measure(vae, problem)}))
        print(f"{time.perf_counter() - start:.0f} s {path.read_text()}", flush=True)
    return dict(json.loads(path.read_text()))


def measure(vae: VAE, problem: Problem) -> dict[str, float]:
    """Distances of reconstructions, quality of samples, and the attribute vector's AtDot."""
    features = problem.features
    x = problem.test.batch(slice(None), dtype=torch.float32)
    means = latents.reconstruct(vae, x).means.clamp(0, 1)
    options = {"mean": True, "num_steps": FEATURE_STEPS, "num_repeats": 3}
    quality = sample_quality(vae, problem.test, train=problem.train, **options)
    vector = latents.attribute_vector(vae, problem.train, problem.attribute[0])
    row = {
        "pixel distance": float((means - x).square().mean((1, 2, 3)).sqrt().mean()),
        "feature distance": float((features(means) - features(x)).norm(dim=1).mean()),
        "AtDot": latents.attribute_auroc(vae, problem.test, problem.attribute[1], vector),
    }
    table = quality.summary()["qualities"]
    for name in QUALITIES:
        row |= {name: table[name]["samples"], f"{name}, training images": table[name]["floor"]}
    return row


def panel(vae: VAE, problem: Problem, num: int = 8) -> list[Tensor]:
    """Rows of images: reconstructions, samples, and the test faces with the attribute added."""
    x = problem.test.batch((~problem.attribute[1]).nonzero()[:num, 0], dtype=torch.float32)
    vector = latents.attribute_vector(vae, problem.train, problem.attribute[0])
    torch.manual_seed(0)
    return [latents.reconstruct(vae, x).means, vae.sample(num, mean=True), latents.edit(vae, x, vector, 1.5).means]


def figure(rows: dict[str, dict[str, list[Tensor]]], problems: dict[str, Problem], path: Path) -> None:
    """A panel for each data set: test faces, and three rows for each model."""
    caption = "Three rows per model: reconstructions of the faces on top, samples, faces with an attribute added"
    with page(0.1, caption, rows=len(rows), share=False) as (fig, axes):
        for ax, (data, models) in zip(axes, rows.items(), strict=True):
            problem, (first, *_) = problems[data], models.values()
            x = problem.test.batch((~problem.attribute[1]).nonzero()[: len(first[0]), 0], dtype=torch.float32)
            grid = torch.cat([x, *(row for images in models.values() for row in images)]).clamp(0, 1)
            pad = show_grid(ax, grid.expand(-1, 3, -1, -1), len(x), margin=0.45)
            names = [data, *(f"{m}: {w}" for m in models for w in ("recon.", "samples", f"+ {problem.name}"))]
            height = grid.shape[-2] + pad
            ax.set_yticks([pad / 2 + height * (i + 0.5) for i in range(len(names))], names)
            ax.tick_params(length=0, labelbottom=False)
            ax.spines[:].set_visible(False)
    fig.savefig(path)


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds with the half-widths of their 95% intervals, and the smallest saving of feature distance."""
    keys = ["pixel distance", "feature distance", *QUALITIES, "AtDot"]
    lines = [f"| data | model | {' | '.join(keys)} |", "|---" * (len(keys) + 2) + "|"]
    for data, model in dict.fromkeys((row["data"], row["model"]) for row in rows):
        own = [row for row in rows if (row["data"], row["model"]) == (data, model)]
        cells = [_interval([row[key] for row in own]) for key in keys]
        lines.append(f"| {data} | {model} | {' | '.join(cells)} |")
    for data in dict.fromkeys(row["data"] for row in rows):
        floor = [
            f"{key} {next(r for r in rows if r['data'] == data)[f'{key}, training images']:.3f}" for key in QUALITIES
        ]
        lines.append(f"{data}: training images {', '.join(floor)}; feature distance by seed, VAE/GAN over VAE: ")
        by = {(row["model"], row["seed"]): row["feature distance"] for row in rows if row["data"] == data}
        ratios = [by["VAE/GAN", s] / by["VAE", s] for m, s in by if m == "VAE/GAN" and ("VAE", s) in by]
        lines[-1] += ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return "\n".join(lines)


def _interval(values: list[float]) -> str:
    interval = mean_interval(values)
    return f"{interval.mean:.3f}" + (f" +- {interval.margin:.3f}" if len(values) > 1 else "")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", default="data", help="folder with FreyFaces/frey_faces.npz (%(default)s)")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--data", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--epochs", type=int, help="passes over the data (default: 40, on Frey Faces 60)")
    parser.add_argument("--runs", nargs="+", default=[], metavar="DATA:NAME=FOLDER", help="further models")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    args = parser.parse_args(argv)
    problems = {data: PROBLEMS[data][0](args.root) for data in args.data}
    rows: list[dict[str, Any]] = []
    pictures: dict[str, dict[str, list[Tensor]]] = {}
    for data, problem in problems.items():
        epochs = args.epochs or PROBLEMS[data][1]
        rows += [evaluated(data, case, problem, seed, epochs, args.work) for seed in args.seeds for case in CASES]
        runs = {case: run_of(args.work, data, case, args.seeds[0], epochs) for case in CASES}
        models = {case: restored(case, problem, args.seeds[0], run) for case, run in runs.items()}
        for name, folder in [run.split(":")[1].split("=") for run in args.runs if run.startswith(f"{data}:")]:
            models[name] = load_run(folder, device="cpu").vae
            rows.append({"data": data, "model": name, "seed": None, **measure(models[name], problem)})
        pictures[data] = {name: panel(vae, problem) for name, vae in models.items()}
    settings = {
        "latent_dim": LATENT_DIM,
        "batch_size": BATCH_SIZE,
        "hidden": HIDDEN,
        "channels": CHANNELS,
        "lr": LR,
        "seeds": args.seeds,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    record = {"rows": rows, "settings": settings, **provenance(["python benchmarks/vae_gan.py --work DIR"], "")}
    (args.out / "vae-gan.json").write_text(json.dumps(record, indent=1) + "\n")
    figure(pictures, problems, args.figure)
    print(table(rows))


if __name__ == "__main__":
    main()
