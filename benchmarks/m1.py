"""M1 on MNIST: classifiers with few labels on the latents of a VAE of all training images.

    pyro-vae train --config benchmarks/results/mnist-1l-elbo/config.yaml --data.root data --out runs/mnist-1l
    python benchmarks/m1.py --run runs/mnist-1l --root data --name mnist-m1

Features are the posterior means of the VAE's active dimensions, averaged over random binarizations of every image,
since the VAE was trained on those; for comparison, PCA of the same binarizations. Labels are balanced over the classes
and chosen by seed. Options of a classifier (C, gamma, k) are selected by cross-validation within its labelled images;
classifiers that use unlabelled images get a subset of the training images. Test images are used for the error only.
Intervals are Student's, of the mean over label draws.

References:
    Semi-supervised learning with deep generative models (Kingma et al., 2014), section 2.1 and table 1.
    https://arxiv.org/abs/1406.5298
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from few_labels import PROTOCOL, classifiers
from record import new_folder, provenance
from report import command
from sklearn.decomposition import PCA

from pyro_vae.data import ImageSet, Splits
from pyro_vae.data.labelling import choose_labels
from pyro_vae.data.splitting import stream
from pyro_vae.evaluation import mean_interval
from pyro_vae.experiments.experiment import instantiate, load_run, parse_config
from pyro_vae.features import VAETransformer
from pyro_vae.training import RunFolder

PUBLISHED = {
    "Kingma et al. 2014: NN": [25.81, 11.44, 10.7, 6.04],
    "Kingma et al. 2014: TSVM": [16.81, 6.16, 5.38, 3.45],
    "Kingma et al. 2014: M1 + TSVM": [11.82, 5.72, 4.24, 3.49],
}  # test error in %
PUBLISHED_LABELS = [100, 600, 1000, 3000]


def averaged(transform: Any, images: ImageSet, draws: int, seed: int, split: str) -> np.ndarray:
    """Mean of the features over random binarizations of the images, ``(N, L)``."""
    generator = stream(seed, f"features {split}")
    return np.mean([transform(binary(images, generator)) for _ in range(draws)], 0)


def binary(images: ImageSet, generator: Any) -> np.ndarray:
    """A random binarization of the images, ``(N, D)``."""
    return replace(images, dynamic=True).batch(slice(None), generator=generator).flatten(1).numpy()


def grey_levels(run: RunFolder, root: str | None) -> Splits:
    """The data set of the run with the same splits, before binarization."""
    dataset = instantiate(parse_config(run))["data"]()
    dataset.binarize, dataset.root = "none", dataset.root if root is None else root
    return dataset.load()


def measured(features: dict[str, np.ndarray], splits: Splits, options: argparse.Namespace) -> dict[str, Any]:
    """Test errors in % by classifier, number of labels and label draw."""
    assert splits.train.labels is not None
    assert splits.test.labels is not None
    y, targets = splits.train.labels.numpy(), splits.test.labels.numpy()
    errors: dict[str, dict[str, list[float]]] = {}
    for number in options.labels:
        for seed in options.seeds:
            chosen = choose_labels(splits.train.labels, number, seed=seed).numpy()
            others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(y)), chosen))
            some, many = (features["train"][others[:size]] for size in (options.unlabelled, options.graph))
            for name, fitted in classifiers(features["train"][chosen], y[chosen], some, many, seed).items():
                with np.errstate(invalid="ignore"):  # label spreading: images that no label reaches
                    wrong = float((fitted.predict(features["test"]) != targets).mean())
                errors.setdefault(name, {}).setdefault(str(number), []).append(round(100 * wrong, 4))
            print(
                f"{number} labels, draw {seed}: {json.dumps({n: e[str(number)][-1] for n, e in errors.items()})}",
                flush=True,
            )
    return {name: {n: summary(values) for n, values in by_number.items()} for name, by_number in errors.items()}


def summary(values: list[float]) -> dict[str, Any]:
    """Mean over the label draws with its 95% interval."""
    result = mean_interval(values)
    margin = None if len(values) == 1 else round(result.margin, 4)
    return {"mean": round(result.mean, 4), "interval": margin, "draws": values}


def table(results: dict[str, Any], labels: list[int]) -> str:
    """Markdown: features and classifier against the number of labels, the published values below."""
    lines = [f"| features | classifier | {' | '.join(map(str, labels))} |", "|---|---|" + "---|" * len(labels)]
    for features, errors in results.items():
        for name, row in errors.items():
            lines.append(f"| {features} | {name} | {' | '.join(cell(row[str(n)]) for n in labels)} |")
    for name, values in PUBLISHED.items():
        known = dict(zip(PUBLISHED_LABELS, values, strict=True))
        lines.append(f"| published | {name} | {' | '.join(str(known.get(n, '-')) for n in labels)} |")
    return "\n".join(lines) + "\n"


def cell(error: dict[str, Any]) -> str:
    return f"{error['mean']:.2f}" + ("" if error["interval"] is None else f" +- {error['interval']:.2f}")


def main() -> None:
    """Encode once, classify for every number of labels and label draw, record."""
    parsed = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parsed.add_argument("--run", type=Path, required=True, help="run folder of the trained VAE")
    parsed.add_argument("--root", help="folder of the run's data set, if it has moved since training")
    parsed.add_argument("--labels", type=int, nargs="+", default=PUBLISHED_LABELS, help="numbers of labels")
    parsed.add_argument("--seeds", type=int, nargs="+", default=list(range(5)), help="seeds of the label draws")
    parsed.add_argument("--draws", type=int, default=10, help="binarizations of every image (%(default)s)")
    parsed.add_argument("--unlabelled", type=int, default=5000, help="unlabelled images for the SVMs (%(default)s)")
    parsed.add_argument("--graph", type=int, default=20_000, help="unlabelled images for label spreading (%(default)s)")
    parsed.add_argument(
        "--active-threshold", type=float, default=0.1, help="least standard deviation of active means (%(default)s)"
    )
    parsed.add_argument("--name", required=True, help="folder under benchmarks/results")
    options = parsed.parse_args()

    start = time.perf_counter()
    trained, splits = (
        load_run(options.run, root=options.root, device="cpu"),
        grey_levels(RunFolder(options.run), options.root),
    )
    images = binary(splits.train, stream(0, "active"))
    m1 = VAETransformer.from_vae(trained.vae, images, active_threshold=options.active_threshold)
    kept = int(m1.active_.sum())
    pca = PCA(kept, whiten=True, svd_solver="randomized", random_state=0).fit(images)
    results = {}
    for name, transform in {"M1": m1.transform, f"PCA, {kept}, whitened": pca.transform}.items():
        sets = {"train": splits.train, "test": splits.test}
        features = {split: averaged(transform, data, options.draws, 0, split) for split, data in sets.items()}
        results[name] = measured(features, splits, options)
        print(table({name: results[name]}, options.labels), flush=True)
    write(options, trained.protocol, kept, results, time.perf_counter() - start)


def write(options: argparse.Namespace, vae: dict[str, Any], kept: int, results: Any, seconds: float) -> None:
    """``result.json`` and ``table.md`` in ``results/NAME``."""
    import sys

    protocol = {
        **vae,
        "features": f"posterior means, {kept} active dimensions, mean over {options.draws} binary draws of an image",
        "active_threshold": options.active_threshold,
        "labels": "class-balanced, by seed, from the training part",
        "label_seeds": options.seeds,
        "unlabelled_images": {"self-training, transductive": options.unlabelled, "label spreading": options.graph},
        "classifiers": PROTOCOL,
        "interval": "95%, Student's t, over label draws; one VAE",
    }
    content = {**provenance([command(sys.argv)], "test error in %"), "minutes": round(seconds / 60, 1)}
    content["machine"] |= {name: version(name) for name in ("scikit-learn", "numpy")}
    content |= {"protocol": protocol, "results": results, "published": {"labels": PUBLISHED_LABELS, **PUBLISHED}}
    target = new_folder(options.name)
    (target / "result.json").write_text(json.dumps(content, indent=1) + "\n")
    (target / "table.md").write_text(table(results, options.labels))
    print(target.name)


if __name__ == "__main__":
    main()
