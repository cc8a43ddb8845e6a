"""Save the results of a run to benchmarks/results/: configuration, curve, numbers, and their provenance.

    python benchmarks/record.py runs/mnist-1l --name mnist-1l-elbo \\
        --command 'pyro-vae train ...' --command 'pyro-vae evaluate ...' --note '...'
    python benchmarks/record.py comparison --name mnist-guides --command 'python examples/compare_guides.py ...'
    python benchmarks/record.py runs/mnist-1l --name mnist-1l-bounds --evaluations 'ais-*' 'sandwich-*' \\
        --command 'pyro-vae evaluate ...'

The second form saves a folder of `examples/compare_guides.py`: the table, the figure, the result of each guide. The
third saves the evaluations of a run whose names match, with their figures.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pyro_vae import load_run
from pyro_vae.training import RunFolder

RESULTS = Path(__file__).parent / "results"
ZOO = Path(__file__).parents[1] / "pyro_vae" / "zoo"
FIGURES = (
    *("training_curves.png", "reconstructions.png", "samples.png", "active_units.png"),
    *("reliability.png", "analogies.png", "class_samples.png"),
)


def machine() -> dict[str, Any]:
    """Processor, cores, accelerator and versions."""
    import os

    import torch

    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "pyro-ppl", "pyro-vae")},
    }


def numbers(path: Path) -> dict[str, Any]:
    """A result without its values per datum."""
    content = json.loads(path.read_text())
    content.pop("per_datum")
    return content


def without_places(config: str) -> str:
    """A configuration that reads data from the folder ``data``, as the recorded commands do."""
    return re.sub(r"^( *root): (?!null$).*$", r"\1: data", config, flags=re.MULTILINE)


def record(run: RunFolder, name: str, commands: list[str], note: str) -> Path:
    """Write ``results/NAME``; an existing record is replaced."""
    target = new_folder(name)
    shutil.copy(run.path / "metrics.jsonl", target / "metrics.jsonl")
    (target / "config.yaml").write_text(without_places(run.config()))
    for figure in FIGURES:
        if (run.figures / figure).exists():
            shutil.copy(run.figures / figure, target / figure)
    metrics = run.metrics()
    content = {
        **provenance(commands, note),
        "training": {
            "epochs": metrics[-1]["epoch"],
            "steps": metrics[-1]["step"],
            "minutes": round(sum(m["seconds"] for m in metrics) / 60, 1),
            "train_elbo": metrics[-1]["elbo"],
            **{name: metrics[-1].get(name) for name in ("validation_elbo", "validation_error")},
        },
        "results": [numbers(path) for path in sorted(run.path.glob("log_likelihood-*.json"))],
    }
    if (run.path / "classification.json").exists():  # of benchmarks/semi_supervised.py
        content["classification"] = json.loads((run.path / "classification.json").read_text())
    (target / "result.json").write_text(json.dumps(content, indent=1) + "\n")
    return target


def record_comparison(folder: Path, name: str, commands: list[str], note: str) -> Path:
    """Write ``results/NAME`` from a folder with one result per guide."""
    target = new_folder(name)
    for file in ("table.txt", "guides.png"):
        shutil.copy(folder / file, target / file)
    results = {numbers(path)["protocol"]["guide"]: numbers(path) for path in sorted(folder.glob("*.json"))}
    content = {**provenance(commands, note), "results": results}
    (target / "result.json").write_text(json.dumps(content, indent=1) + "\n")
    return target


def record_evaluations(run: RunFolder, name: str, patterns: list[str], commands: list[str], note: str) -> Path:
    """Write ``results/NAME`` from the evaluations of a run whose file names match one of the patterns."""
    paths = sorted(path for pattern in patterns for path in run.path.glob(f"{pattern}.json"))
    if not paths:
        raise SystemExit(f"record: {run.path} must hold evaluations that match {patterns}, got none. Evaluate first.")
    target = new_folder(name)
    for path in paths:
        figure = run.figures / f"{path.stem}.png"
        if figure.exists():
            shutil.copy(figure, target / figure.name)
    content = {**provenance(commands, note), "results": {path.stem: numbers(path) for path in paths}}
    (target / "result.json").write_text(json.dumps(content, indent=1) + "\n")
    return target


def add_to_zoo(run: RunFolder, name: str, source: Path) -> None:
    """Copy the weights of a recorded run to the package, with what ``source`` records."""
    target = ZOO / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in ("config.yaml", "weights.safetensors"):
        shutil.copy(run.path / file, target / file)
    shape = list(load_run(run.path, device="cpu").vae.likelihood.data_shape)
    content = {"data_shape": shape, **json.loads((source / "result.json").read_text())}
    (target / "model.json").write_text(json.dumps(content, indent=1) + "\n")


def new_folder(name: str) -> Path:
    """The folder ``results/NAME``, empty."""
    target = RESULTS / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    return target


def provenance(commands: list[str], note: str) -> dict[str, Any]:
    """Commands, note, date and machine."""
    return {"commands": commands, "note": note, "date": date.today().isoformat(), "machine": machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--command", action="append", required=True, help="the complete command; repeatable")
    parser.add_argument("--note", default="")
    parser.add_argument("--zoo", metavar="NAME", help="add the weights to pyro_vae/zoo under this name")
    parser.add_argument("--evaluations", nargs="+", help="save only results of these names, with their figures")
    options = parser.parse_args()
    if options.evaluations:
        print(
            record_evaluations(RunFolder(options.run), options.name, options.evaluations, options.command, options.note)
        )
        return
    rest = options.name, options.command, options.note
    compared = (options.run / "table.txt").exists()
    target = record_comparison(options.run, *rest) if compared else record(RunFolder(options.run), *rest)
    if options.zoo:
        add_to_zoo(RunFolder(options.run), options.zoo, target)
    print(target)


if __name__ == "__main__":
    main()
