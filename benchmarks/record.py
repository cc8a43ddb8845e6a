"""Keep what a run found under benchmarks/results/: its configuration, curve, numbers, and how they were made.

    python benchmarks/record.py runs/mnist-1l --name mnist-1l-elbo \\
        --command 'pyro-vae train ...' --command 'pyro-vae evaluate ...' --note '...'
    python benchmarks/record.py comparison --name mnist-guides --command 'python examples/compare_guides.py ...'
    python benchmarks/record.py runs/mnist-1l --name mnist-1l-bounds --evaluations 'ais-*' 'sandwich-*' \\
        --command 'pyro-vae evaluate ...'

The second form keeps a folder of `examples/compare_guides.py`: the table, the figure, each guide's result. The third
keeps a run's evaluations, those of the given names, with their figures.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pyro_vae.training import RunFolder

RESULTS = Path(__file__).parent / "results"
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
    """A result without its numbers per datum."""
    content = json.loads(path.read_text())
    content.pop("per_datum")
    return content


def record(run: RunFolder, name: str, commands: list[str], note: str) -> Path:
    """Write ``results/NAME``; a record that is there is replaced."""
    target = emptied(name)
    for file in ("config.yaml", "metrics.jsonl"):
        shutil.copy(run.path / file, target / file)
    for figure in FIGURES:
        if (run.figures / figure).exists():
            shutil.copy(run.figures / figure, target / figure)
    metrics = run.metrics()
    content = {
        **circumstances(commands, note),
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
    """Write ``results/NAME`` of a folder with one result per guide."""
    target = emptied(name)
    for file in ("table.txt", "guides.png"):
        shutil.copy(folder / file, target / file)
    results = {numbers(path)["protocol"]["guide"]: numbers(path) for path in sorted(folder.glob("*.json"))}
    content = {**circumstances(commands, note), "results": results}
    (target / "result.json").write_text(json.dumps(content, indent=1) + "\n")
    return target


def record_evaluations(run: RunFolder, name: str, patterns: list[str], commands: list[str], note: str) -> Path:
    """Write ``results/NAME`` of a run's evaluations whose file names match one of the patterns."""
    paths = sorted(path for pattern in patterns for path in run.path.glob(f"{pattern}.json"))
    if not paths:
        raise SystemExit(f"record: {run.path} must hold such evaluations, got none for {patterns}. Evaluate first.")
    target = emptied(name)
    for path in paths:
        figure = run.figures / f"{path.stem}.png"
        if figure.exists():
            shutil.copy(figure, target / figure.name)
    content = {**circumstances(commands, note), "results": {path.stem: numbers(path) for path in paths}}
    (target / "result.json").write_text(json.dumps(content, indent=1) + "\n")
    return target


def emptied(name: str) -> Path:
    """The folder ``results/NAME``, new."""
    target = RESULTS / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    return target


def circumstances(commands: list[str], note: str) -> dict[str, Any]:
    """How, when and where."""
    return {"commands": commands, "note": note, "date": date.today().isoformat(), "machine": machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--command", action="append", required=True, help="what was run, word by word; repeatable")
    parser.add_argument("--note", default="")
    parser.add_argument("--evaluations", nargs="+", help="keep only results of these names, with their figures")
    options = parser.parse_args()
    if options.evaluations:
        print(
            record_evaluations(RunFolder(options.run), options.name, options.evaluations, options.command, options.note)
        )
        return
    rest = options.name, options.command, options.note
    compared = (options.run / "table.txt").exists()
    print(record_comparison(options.run, *rest) if compared else record(RunFolder(options.run), *rest))


if __name__ == "__main__":
    main()
