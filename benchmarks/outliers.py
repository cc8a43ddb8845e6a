"""Detection of outliers by VAEs of grey images: every score, several seeds, with bootstrap intervals.

    python benchmarks/outliers.py FOLDER --root data --out benchmarks/results/outliers/results.json

Trains the VAEs that are not in the folder (benchmarks/outlier_models.py) and scores the seeds whose scores are not; a
command that was interrupted resumes, and writes a summary of the seeds that are finished. Two detectors per model: the
scores of one evaluation, calibrated on 1,000 images, and these together with likelihood regret on fewer images.

No score, rule or setting was chosen by the outliers reported here: those of `OutlierDetector` are its defaults. The
pair with Frey faces, padded to 28 x 28, was evaluated only after all settings were fixed.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from outlier_models import images_of, splits_of, trained
from record import machine
from torch import Tensor
from torch.nn.functional import pad

from pyro_vae.data import ImageSet
from pyro_vae.evaluation import OutlierDetector, conformal_p_values, detection, mean_interval
from pyro_vae.experiments.outlier_data import KINDS, made_outliers

NUM_DATA, NUM_REFERENCE, NUM_SPLITS = 1000, 1500, 20
REGRET_DATA, REGRET_REFERENCE, REGRET_STEPS = 300, 450, 100
OTHER = {"FashionMNIST": "MNIST", "MNIST": "FashionMNIST"}


def outlier_sets(root: Path, name: str, test: ImageSet) -> dict[str, ImageSet]:
    """Outliers by name: the other data set, Frey faces, and those made from the test images."""
    faces = torch.from_numpy(np.load(root / "FreyFaces" / "frey_faces.npz")["images"]).reshape(-1, 1, 28, 20)
    sets = {OTHER[name]: images_of(root, OTHER[name], "t10k"), "FreyFaces": ImageSet(pad(faces, (4, 4)))}
    return {**sets, **{kind: made_outliers(kind, test) for kind in KINDS}}


def false_alarms(scores: Tensor) -> dict[str, list[float]]:
    """Shares of data with p <= 0.01 and 0.05 over random halvings of the scores into calibration and test data."""
    shares: dict[str, list[float]] = {"0.01": [], "0.05": []}
    for split in range(NUM_SPLITS):
        order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(split))
        first, second = (scores[rows] for rows in order.chunk(2))
        p = conformal_p_values(second, first)
        for level, values in shares.items():
            values.append(float((p <= float(level)).double().mean()))
    return shares


def scored(vae: Any, root: Path, name: str, seed: int, regret: bool) -> dict[str, Any]:
    """AUROC with interval and false positives of every score for every set of outliers, and false alarms."""
    _, validation, test = splits_of(root, name, seed)
    num, num_reference = (REGRET_DATA, REGRET_REFERENCE) if regret else (NUM_DATA, NUM_REFERENCE)
    start, cpu = time.perf_counter(), time.process_time()
    options = {"regret_steps": REGRET_STEPS if regret else None}
    detector = OutlierDetector(vae.model, vae.guide, validation.subset(slice(num_reference)), **options)
    data = detector.scores(test.subset(slice(num)))
    cost = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - cpu}
    sets = outlier_sets(root, name, test.subset(slice(num)))
    if regret:
        sets = {OTHER[name]: sets[OTHER[name]]}
    results = {}
    for other, images in sets.items():
        outside = detector.scores(images.subset(slice(num)))
        columns = {score: (data[:, i], outside[:, i]) for i, score in enumerate(detector.names)}
        results[other] = {score: detection(*pair)._asdict() for score, pair in columns.items()}
        p = conformal_p_values(outside, detector.calibration)[:, -1]
        results[other]["combined"]["rejected at 0.01"] = float((p <= 0.01).double().mean())
    pool = torch.cat([detector.calibration, data])
    alarms = {score: false_alarms(pool[:, i]) for i, score in enumerate(detector.names)}
    p = conformal_p_values(data, detector.calibration)
    on_test = {
        score: [float((p[:, i] <= a).double().mean()) for a in (0.01, 0.05)] for i, score in enumerate(detector.names)
    }
    sizes = {"data": num, "reference": num_reference, "scored": num + num_reference}
    return {"sizes": sizes, "cost": cost, "detection": results, "false alarms": alarms, "on test": on_test}


def summary(folder: Path, name: str) -> dict[str, Any]:
    """Mean and interval over the finished seeds, by detector, outliers and score."""
    files = sorted(folder.glob(f"{name}-[0-9]*-scores.json"))
    records = [json.loads(file.read_text()) for file in files]
    table: dict[str, Any] = {"seeds": len(records)}
    for kind in ("cheap", "regret"):
        chosen = [record[kind]["detection"] for record in records if kind in record]
        for other in chosen[0] if chosen else ():
            for score in chosen[0][other]:
                values = [100 * record[other][score]["auroc"] for record in chosen]
                table.setdefault(f"{kind}: {other}", {})[score] = str(mean_interval(values))
    return {**table, "records": records}


def main(argv: list[str] | None = None) -> None:
    """Score all seeds and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--runs", nargs="+", default=[*(f"FashionMNIST-{seed}" for seed in range(5)), "MNIST-0"])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for run in options.runs:
        name, seed = run.split("-")
        vae = trained(options.folder, options.root, name, int(seed), options.epochs)
        file = options.folder / f"{run}-scores.json"
        if not file.exists():
            record = {
                kind: scored(vae, options.root, name, int(seed), kind == "regret") for kind in ("cheap", "regret")
            }
            training = json.loads((options.folder / f"{run}.json").read_text())
            file.write_text(json.dumps({"run": run, "training": training, **record}, indent=1) + "\n")
        if options.out:
            names = dict.fromkeys(run.split("-")[0] for run in options.runs)
            content = {name: summary(options.folder, name) for name in names}
            head = {"date": date.today().isoformat(), "machine": machine(), "epochs": options.epochs}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({**head, **content}, indent=1) + "\n")


if __name__ == "__main__":
    main()
