"""Results in a run folder, and whether they are of its present weights."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pyro_vae.evaluation import Result
from pyro_vae.evaluation.result_file import ResultFile
from pyro_vae.experiments.methods import METHODS, Method
from pyro_vae.experiments.provenance import PROVENANCE
from pyro_vae.training import RunFolder

R = TypeVar("R", bound=Result)
DATA = ("dataset", "data_file", "binarize", "data_seed", "split", "num_data", "train", "validation", "test")
"""Protocol entries that identify the evaluated data."""
PREFIX = {"importance": "log_likelihood"}
"""First part of file names, by method, if it is not the method's name."""


def result_path(run: RunFolder, method: str, stem: str) -> Path:
    """The file of a result, such as ``ais-test-prior-1000x16-seed0.json``."""
    return run.path / f"{PREFIX.get(method, method)}-{stem}.json"


def place_of(run: RunFolder, method: str, stem: str, weights: str, *, overwrite: bool = False) -> tuple[Path, bool]:
    """The file for a result of some weights, and whether it holds one.

    Beside a result of other weights the file name ends in the first eight digits of the fingerprint.

    Args:
        run: the run folder.
        method: the kind of result.
        stem: name of the file, see :meth:`pyro_vae.experiments.methods.Method.file_stem`.
        weights: fingerprint of the weights.
        overwrite: replace a result of other weights.

    Raises:
        ValueError: a file holds no result, and ``overwrite`` is False.
    """
    first = result_path(run, method, stem)
    files = first, first.with_name(f"{first.stem}-{weights[:8]}.json")
    for file in files:
        if file.exists() and not overwrite:
            result = _read(file)
            if result is not None and result.protocol.get("weights_sha256") == weights:
                return file, True
    beside = files[1].exists() or (first.exists() and not overwrite)
    return files[1] if beside else first, False


@dataclass(frozen=True)
class RunResults:
    """The results in a run folder.

    Attributes:
        run: the run folder.
        current: those of its present weights, and those without a fingerprint.
        stale: those of other weights that have not been computed anew.
    """

    run: RunFolder
    current: dict[Path, Result]
    stale: dict[Path, Result]

    def unknown(self) -> dict[Path, Result]:
        """The results without a fingerprint of their weights, if the run has weights."""
        results = self.current.items() if self.run.has_weights() else ()
        return {path: result for path, result in results if "weights_sha256" not in result.protocol}

    def note(self, result: Result) -> str:
        """The epochs of a stale result and of the run."""
        now, then = self.run.provenance().get("epoch"), result.protocol.get("epoch")
        return f"measured at epoch {then} of {now}" if now and str(then) != now else "measured with other weights"


def results_of(run: RunFolder) -> RunResults:
    """Every result in the run folder by file, sorted by name; other JSON files are skipped.

    Raises:
        ValueError: the file of a result is damaged.
    """
    read = {path: _read(path) for path in sorted(run.path.glob("*.json"))}
    results = {path: result for path, result in read.items() if result is not None}
    weights = {path: result.protocol.get("weights_sha256") for path, result in results.items()}
    present = {raw: run.provenance(raw=raw)["weights_sha256"] for raw in (False, True) if run.has_weights(raw=raw)}
    expected = {path: present.get(result.protocol.get("weights") == "raw") for path, result in results.items()}
    fresh = {path for path in results if weights[path] is not None and weights[path] == expected[path]}
    renewed = {_first_name(path, results[path]) for path in fresh}
    rest = {path: result for path, result in results.items() if _first_name(path, result) not in renewed}
    stale = {path: result for path, result in rest.items() if weights[path] is not None and expected[path] is not None}
    current = {
        path: result for path, result in results.items() if path in fresh or (path in rest and path not in stale)
    }
    return RunResults(run, current, stale)


def _first_name(path: Path, result: Result) -> str:
    """The name of the file without the digits of a fingerprint."""
    return path.stem.removesuffix(f"-{str(result.protocol.get('weights_sha256'))[:8]}")


def renewal(run: RunFolder, path: Path, result: Result) -> str:
    """The command that computes a result anew; options that its protocol does not tell are left to the user."""
    raw = result.protocol.get("weights") == "raw"
    method = next((m for m in METHODS.values() if type(result) in m.results), None)
    name = result.method if method is None else method.name
    command = f"pyro-vae evaluate {shlex.quote(str(run.path))}"
    command += f" --method {name}" if name != "importance" else ""
    for num_data in (None, result.protocol.get("num_data")):
        options = {} if method is None else _options(method, result.protocol) | {"num_data": num_data}
        stem = method.file_stem(options) + ("-raw" if raw else "") if method else ""
        if method and result_path(run, result.method, stem).stem == _first_name(path, result):
            defaults = method.defaults()
            changed = {key: value for key, value in options.items() if value != defaults[key]}
            words = [f" --{key} {value}" for key, value in changed.items() if value is not None]
            return command + "".join(words) + (" --weights raw" if raw else "")
    return f"{command}  # with the options of {path.name}"


def _options(method: Method, protocol: dict[str, Any]) -> dict[str, Any]:
    """The options of a method that a protocol tells."""
    names = {"split": ["split"], "seed": ["sample_seed"]}
    names |= {option.name: [option.name, f"optimisation_{option.name}"] for option in method.options}
    values = {
        key: next((protocol[name] for name in entries if name in protocol), None) for key, entries in names.items()
    }
    return method.defaults() | {key: value for key, value in values.items() if value is not None}


def _read(path: Path) -> Result | None:
    return Result.load(path) if ResultFile(path, "Result").is_result else None


def same_data(a: Result, b: Result) -> bool:
    """Whether the rows of both results belong to the same data; training images sampled in each epoch do not.

    If both have fingerprints of their data, these are compared, otherwise the descriptions of the data.
    """
    resampled = a.protocol.get("binarize") == "dynamic" and a.protocol.get("split") == "train"
    known = "data_sha256" in a.protocol and "data_sha256" in b.protocol
    keys = ("data_sha256", "split", "num_data") if known else DATA
    return not resampled and all(a.protocol.get(key) == b.protocol.get(key) for key in keys)


def by_settings(results: Sequence[R]) -> list[list[R]]:
    """Groups of annealed results that differ only in number of distributions and seed, each sorted by that number."""
    groups: dict[str, list[R]] = {}
    for result in results:
        free = ("num_distributions", "sample_seed", *PROVENANCE)
        key = {k: v for k, v in result.protocol.items() if k not in free}
        groups.setdefault(repr(key), []).append(result)
    return [sorted(group, key=lambda r: int(r.protocol["num_distributions"])) for group in groups.values()]


def first_rows(result: R, other: Result) -> R | None:
    """The first rows of a result, as many as another has, if both are then of the same data; otherwise None."""
    if len(other) > len(result):
        return None
    rows: dict[str, Any] = {name: values[: len(other)] for name, values in result.tensors().items()}
    cut = replace(result, **rows, protocol={**result.protocol, "num_data": other.protocol.get("num_data")})
    return cut if same_data(cut, other) else None
