"""Everything to run when a GPU is at hand, in the order of value, within a number of minutes.

    python benchmarks/gpu.py --minutes 14 --root data --out gpu
    python benchmarks/gpu.py --device cpu --minutes 3 --small --out rehearsal

    a  correctness: every engine against Pyro's own numbers, the device against the CPU, exact resume, log p(x), tests
    b  speed: the tables of ``speed.py``, an epoch of MNIST with the utilisation of the GPU
    c  evaluation: 5,000-sample log p(x) of all test images, annealed importance sampling of 100
    d  recipes: trainings of ``recipes/``, interrupted when the time is over and resumed by the next start

Each part writes ``OUT/PART.json`` when it is done, with its failures; a later start with the same folder omits it. The
exit status is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from images import load, pool
from programs import PROGRAMS, Pair
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from report import environment
from timing import log

from pyro_vae import fit
from pyro_vae.data import ImageSet
from pyro_vae.evaluation import annealed_log_likelihood, log_likelihood
from pyro_vae.training import build_engine

Part = dict[str, Any]
FOLDER = Path(__file__).parent
RECIPES = ("mnist-iwae-50", "mnist-vamp", "mnist-m2-100")


class Bench:
    """One start of the script.

    Args:
        options: the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.end = time.monotonic() + 60 * options.minutes
        self.name, self.images = load(options.root)
        self.engines = ["eager", "compiled", *(["cuda-graph"] if options.device == "cuda" else [])]
        self.programs = ["mlp"] if options.small else list(PROGRAMS)

    def left(self) -> float:
        """Seconds left."""
        return self.end - time.monotonic()

    def pair(self, name: str) -> Pair:
        torch.manual_seed(0)
        sizes = {"width": 16, "latent_dim": 4} if self.options.small else {}
        return PROGRAMS[name](**sizes)

    def command(self, words: Sequence[Any], *, seconds: float) -> Part:
        """Run a Python command for a limited time; Ctrl-C ends it."""
        log(" ".join(map(str, words)))
        process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            output, _ = process.communicate(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate()
        text = output.decode(errors="replace")
        return {"command": " ".join(map(str, words)), "status": process.returncode, "output": text[-4000:]}


# ---------------------------------------------------------------- a: correctness


def correctness(bench: Bench) -> Part:
    checks = {}
    for name in bench.programs:
        checks[f"{name}: device and CPU"] = attempt(lambda name=name: device_difference(bench, name))
        for engine in bench.engines:
            checks[f"{name}: {engine} and Pyro"] = attempt(lambda n=name, e=engine: agreement(bench, n, e))
    for engine in bench.engines:
        checks[f"{engine}: exact resume"] = attempt(lambda e=engine: resumes(bench, e))
    checks["log p(x): device and CPU"] = attempt(lambda: likelihood_difference(bench))
    part: Part = {"checks": checks, "failures": sorted(name for name, check in checks.items() if not check["holds"])}
    if not bench.options.small:
        tests = [
            "-m",
            "pytest",
            "-q",
            "-n",
            "8",
            "tests/test_contracts.py",
            "tests/data",
            "tests/test_training_engines.py",
        ]
        part["tests"] = bench.command(tests, seconds=min(240, bench.left() / 2))
        part["failures"] += ["tests"] * (part["tests"]["status"] != 0)
    return part


def attempt(check: Callable[[], Part]) -> Part:
    """The result of a check, or its error."""
    try:
        return check()
    except Exception:  # the other checks still run
        return {"holds": False, "error": traceback.format_exc(limit=-3)}


def agreement(bench: Bench, name: str, engine: str) -> Part:
    """Loss and gradient of an engine against those of Pyro's own ELBO, and the losses of ten steps."""
    pair = bench.pair(name).to(bench.device)
    batches = pool(bench.images, 20, pair.data_shape, size=10).to(bench.device)
    parameters = pair.parameters()
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    programs = pair.objective(), pair.model, pair.guide
    built: Any = build_engine(engine, *programs, optimizer, parameters, args=(batches[0],))  # type: ignore[arg-type]
    reference = TraceEnum_ELBO(max_plate_nesting=1) if name == "m2" else Trace_ELBO()
    result = built.check_against(reference, (batches[0],))
    losses = [built.step((x,)).loss for x in batches]
    holds = result.loss < 1e-4 and result.gradient < 1e-2 and built.name == engine and all(map(math.isfinite, losses))
    return {"holds": holds, "engine": built.name, "loss": result.loss, "gradient": result.gradient, "losses": losses}


def device_difference(bench: Bench, name: str) -> Part:
    """Relative difference of log p(x, z) and its gradient between the device and the CPU, at the same latents."""
    pair = bench.pair(name)
    x = pool(bench.images, 20, pair.data_shape, size=1)[0]
    latent = poutine.trace(pair.guide).get_trace(x)
    results = []
    for device in (torch.device("cpu"), bench.device):
        moved = copy.deepcopy(pair).to(device)
        values = {k: s["value"].detach().to(device) for k, s in latent.nodes.items() if s["type"] == "sample"}
        program = poutine.condition(moved.model, data=values)
        total = poutine.trace(program).get_trace(x.to(device)).log_prob_sum()
        gradient = torch.autograd.grad(total, list(moved.model.parameters()), allow_unused=True)
        results.append([total.detach().cpu(), torch.cat([g.flatten().cpu() for g in gradient if g is not None])])
    distances = [float((a - b).norm() / a.norm()) for a, b in zip(*results, strict=True)]
    return {"holds": distances[0] < 1e-5 and distances[1] < 1e-3, "loss": distances[0], "gradient": distances[1]}


def resumes(bench: Bench, engine: Any) -> Part:
    """Whether a training in two parts ends with the bits of an uninterrupted one."""
    import tempfile

    weights = []
    for parts in ((4,), (2, 4)):
        pair = bench.pair("mlp").to(bench.device)
        data = flat(bench.images.subset(slice(1000)), pair).to(bench.device)
        with tempfile.TemporaryDirectory() as folder:
            for epochs in parts:
                options: dict[str, Any] = {"run": f"{folder}/run", "resume": epochs != parts[0], "ema": 0.99}
                fit(pair.model, pair.guide, data, epochs=epochs, batch_size=100, engine=engine, **options)
        weights.append(torch.cat([p.detach().flatten().cpu() for p in pair.parameters()]))
    return {"holds": bool(torch.equal(*weights)), "largest": float((weights[0] - weights[1]).abs().max())}


def likelihood_difference(bench: Bench) -> Part:
    """Mean difference of the log-likelihood between the device and the CPU, with its Monte Carlo error."""
    pair = briefly_trained(bench)
    num = 50 if bench.options.small else 500
    x = pool(bench.images, num, pair.data_shape, size=1)[0]
    means, errors = [], []
    for device in (torch.device("cpu"), bench.device):
        moved = copy.deepcopy(pair).to(device)
        result = log_likelihood(moved.model, moved.guide, x.to(device), num_samples=2000, seed=len(means))
        means.append(result.mean("log_likelihood"))
        errors.append(float(result.standard_error.square().mean().sqrt()) / num**0.5)
    difference, error = means[1] - means[0], math.hypot(*errors)
    return {"holds": abs(difference) < max(0.02, 4.5 * error), "difference": difference, "standard_error": error}


def briefly_trained(bench: Bench) -> Pair:
    pair = bench.pair("mlp").to(bench.device)
    fit(pair.model, pair.guide, flat(bench.images, pair).to(bench.device), epochs=2, batch_size=128, engine="eager")
    return pair.to(torch.device("cpu"))


def flat(images: ImageSet, pair: Pair) -> ImageSet:
    x = images.images.reshape(len(images), *pair.data_shape)
    return ImageSet(x, max_value=images.max_value, dynamic=True)


# ---------------------------------------------------------------- b: speed


def speed(bench: Bench) -> Part:
    options, out = bench.options, bench.options.out
    root = ["--root", options.root] if options.root else []
    batches = [20] if options.small else [128, 20, 1024]
    size = ["--width", "16", "--latent-dim", "4", "--seconds", "0.01", "--pool", "3"] if options.small else []
    size += ["--candidates", "Pyro SVI.step", "torch eager", "pyro_vae eager"] if options.small else []
    tables, repeats = [], 1 if options.small else 7
    for batch in batches:
        words = [
            FOLDER / "speed.py",
            *root,
            "--device",
            options.device,
            "--programs",
            *bench.programs,
            "--batch",
            batch,
        ]
        words += ["--repeats", repeats, "--out", out / f"speed-{batch}.json", *size]
        tables.append(bench.command(words, seconds=bench.left() / 2))
    failures = [f"speed at batch {b}" for b, t in zip(batches, tables, strict=True) if t["status"] != 0]
    return {"tables": tables, "epoch": attempt(lambda: epoch(bench)), "failures": failures}


def epoch(bench: Bench) -> Part:
    """Seconds of an epoch of ``fit`` on all images, and the utilisation of the GPU meanwhile."""
    pair = bench.pair("mlp").to(bench.device)
    epochs, images = (2, bench.images.subset(slice(1000))) if bench.options.small else (20, bench.images)
    monitor = None
    if bench.options.device == "cuda":
        query = ["nvidia-smi", "--query-gpu=utilization.gpu,power.draw", "--format=csv,noheader,nounits", "-lms", "200"]
        monitor = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
    data = flat(images, pair).to(bench.device)
    history = fit(pair.model, pair.guide, data, epochs=epochs, batch_size=128, engine=bench.engines[-1]).history  # type: ignore[arg-type]
    readings: list[list[float]] = []
    if monitor is not None:
        monitor.terminate()
        readings = [[float(v) for v in line.split(",")] for line in (monitor.communicate()[0] or "").splitlines()]
    seconds = [record["seconds"] for record in history]
    return {"holds": True, "num_data": len(images), "seconds": seconds, "utilisation_and_watts": readings}


# ---------------------------------------------------------------- c: evaluation


def evaluation(bench: Bench) -> Part:
    small = bench.options.small
    pair = briefly_trained(bench).to(bench.device)
    test = load(bench.options.root, test=True)[1]
    x = pool(test, 50 if small else len(test), pair.data_shape, size=1)[0].to(bench.device)
    start = time.monotonic()
    sizes = {"num_samples": 100} if small else {"num_samples": 5000, "batch_size": 500, "chunk_size": 100}
    result = log_likelihood(pair.model, pair.guide, x, **sizes)  # type: ignore[arg-type]
    middle = time.monotonic()
    chains = {"num_distributions": 10, "num_chains": 2} if small else {"num_distributions": 1000, "num_chains": 16}
    annealed = annealed_log_likelihood(pair.model, pair.guide, x[:100], **chains)  # type: ignore[arg-type]
    means = {"importance": result.mean("log_likelihood"), "ais": annealed.mean("log_likelihood")}
    seconds = {"importance": middle - start, "ais": time.monotonic() - middle}
    return {"num_data": len(x), "seconds": seconds, "mean": means, "failures": []}


# ---------------------------------------------------------------- d: recipes


def recipes(bench: Bench) -> Part:
    runs, root = [], ["--data.root", bench.options.root] if bench.options.root else []
    for name in RECIPES[:1] if bench.options.small else RECIPES:
        run = bench.options.out / name
        words = ["-m", "pyro_vae", "train", "--resume", run]
        if not (run / "state.pt").exists():
            words = ["-m", "pyro_vae", "train", "--config", FOLDER.parent / "recipes" / f"{name}.yaml", "--out", run]
            words += ["--device", bench.options.device, *root]
            words += ["--data", "Digits", "--epochs", "1", "--num_samples", "10"] if bench.options.small else []
        if bench.left() > 30:
            runs.append({"recipe": name, **bench.command(words, seconds=bench.left() - 20)})
    failures = [run["recipe"] for run in runs if run["status"] not in (0, 130)]  # 130: interrupted
    return {"runs": runs, "failures": failures, "incomplete": any(run["status"] == 130 for run in runs)}


PARTS: dict[str, Callable[[Bench], Part]] = {"a": correctness, "b": speed, "c": evaluation, "d": recipes}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; parts in it are not repeated")
    parser.add_argument("--root", help="folder with MNIST/raw (default: scikit-learn's digits, enlarged)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="a rehearsal: small networks, few data and repeats")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU; rehearse with --device cpu --small")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    bench, failures = Bench(options), 0
    for name in options.parts:
        file = options.out / f"{name}.json"
        if file.exists() or bench.left() < 10:
            log(f"part {name}: {'done before' if file.exists() else 'no time left'}")
            continue
        start = time.monotonic()
        part = attempt(lambda name=name: PARTS[name](bench))  # type: ignore[misc]
        pyro.clear_param_store()
        part.setdefault("failures", ["error"])
        part |= {**environment(None, bench.device), "seconds_in_all": time.monotonic() - start}
        finished = not part.pop("incomplete", False)
        (file if finished else file.with_suffix(".partial.json")).write_text(json.dumps(part, indent=1) + "\n")
        log(f"part {name}: {part['seconds_in_all']:.0f} s, failures: {', '.join(part['failures']) or 'none'}")
        failures += len(part["failures"])
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
