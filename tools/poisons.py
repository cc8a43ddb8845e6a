"""Kinds of damage to files, by the kind of file: each a name and a function that changes a file in place."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load, save

Damage = Callable[[Path], Any]
MARKER = "executed"
BOMB = b"[" * 200_000
DEEP: Any = json.loads("[" * 50 + "]" * 50)
GIGA = 2_000_000_000


class Evil:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path(MARKER).touch, ())


def _replace(make: Callable[[Path], Any]) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def _bytes(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def _flip(share: float) -> Damage:
    def change(content: bytes) -> bytes:
        place = min(len(content) - 1, int(share * len(content)))
        return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]

    return _bytes(change)


def of_any_file() -> Iterator[tuple[str, Damage]]:
    """Damage to the bytes, and other things in place of the file."""
    yield "empty", _bytes(lambda b: b"")
    yield "ten bytes", _bytes(lambda b: b[:10])
    yield "half", _bytes(lambda b: b[: len(b) // 2])
    yield "without its end", _bytes(lambda b: b[:-3])
    yield "zeros", _bytes(lambda b: bytes(len(b)))
    yield "noise", _bytes(lambda b: np.random.default_rng(0).bytes(len(b)))
    yield "a picture", _bytes(lambda b: png((4, 4)))
    yield "a pickle", _bytes(lambda b: pickle.dumps(Evil()))
    yield "a deep nesting", _bytes(lambda b: BOMB)
    yield "UTF-16", _bytes(lambda b: "epochs: 3".encode("utf-16"))
    for share in (0.02, 0.3, 0.6, 0.95):
        yield f"a flip at {share:.0%}", _flip(share)
    yield "FIFO", _replace(os.mkfifo)
    yield "folder", _replace(Path.mkdir)
    yield "link to itself", _replace(lambda path: path.symlink_to(path.name))
    yield "link to nothing", _replace(lambda path: path.symlink_to("nothing"))
    yield "link to /dev/zero", _replace(lambda path: path.symlink_to("/dev/zero"))
    yield "link to /dev/null", _replace(lambda path: path.symlink_to("/dev/null"))
    yield "ten gigabytes", lambda path: os.truncate(path, 10**10)
    if os.geteuid():
        yield "unreadable", lambda path: path.chmod(0)


def _json(change: Callable[[Any], Any]) -> Damage:
    def damage(path: Path) -> None:
        content = json.loads(path.read_text())
        changed = change(content)
        path.write_text(json.dumps(content if changed is None else changed))

    return damage


def put(content: Any, place: str, value: Any) -> None:
    """Set an entry at a dotted place; ``...`` removes it."""
    *path, last = place.split(".")
    for part in path:
        content = content[int(part) if isinstance(content, list) else part]
    key = int(last) if isinstance(content, list) else last
    if value is ...:
        del content[key]
    else:
        content[key] = value


def _places(
    change: Callable[[Callable[[Any], Any]], Damage], entries: dict[str, list[Any]]
) -> Iterator[tuple[str, Damage]]:
    for place, values in entries.items():
        for value in values:
            label = "missing" if value is ... else f"{value!r:.30}"
            yield f"{place} {label}", change(lambda content, p=place, v=value: put(content, p, copy.deepcopy(v)))


def of_results() -> Iterator[tuple[str, Damage]]:
    """Entries of a result."""
    rows = "per_datum.log_likelihood"
    yield from _places(
        _json,
        {
            "method": [..., 5, "unknown", ["importance"], None],
            "protocol": [..., None, [], "text", {}],
            "per_datum": [None, [], 3, {}],
            rows: [..., None, "text", 3.0, [], [[]], {}, DEEP],
            f"{rows}.0": ["abc", None, True, [1.0], {}, 10**400, "1e3", "inf", 1e6],
            "per_datum.elbo": [[1.0]],
            "per_datum.curve": [[1.0] * 12, [[1.0]] * 12, [[]] * 12],
            "per_datum.unknown": [[1.0] * 12],
            "log_likelihood": [None, 3, "text"],
            "log_likelihood.mean": [0.0, None, "text", [1.0]],
            "elbo.sampling_error": [1e9],
            "curve.0.bound": [5.0],
            "protocol.num_samples": [..., "x", -1, 0, 1.5, 10**30, None, [3]],
            "protocol.dimensions": [..., 0, "x"],
            "protocol.discrete": [...],
            "protocol.num_data": [11, "x"],
            "protocol.split": [..., ["test"], None, {}],
            "protocol.sample_seed": [[], "x"],
            "protocol.dataset": [["a"], {}],
        },
    )
    yield "a list", _json(lambda content: [content])
    yield "a number", _json(lambda content: 3)
    yield "NaN tokens", lambda path: path.write_text(path.read_text().replace('"mean": -', '"mean": NaN, "x": -', 1))
    yield "an endless number", lambda path: path.write_text('{"per_datum": {"elbo": [1' + "0" * 5000 + "]}}")


def _line(line: str) -> Damage:
    return lambda path: path.write_text(path.read_text() + line + "\n")


def of_metrics() -> Iterator[tuple[str, Damage]]:
    """Lines of the metrics."""
    entries = {"epoch": ['"x"', "-1", "1.5", "null", "1e99", "99999999999", "true"], "loss": ['"x"', "[1]", '{"a": 1}']}
    entries |= {"elbo": ['"high"', "[]"], "validation_elbo": ['"x"']}
    for name, values in entries.items():
        for value in values:
            yield f"{name}={value}", _line(f'{{"epoch": 3, "{name}": {value}}}')
    for line in ("[1]", "3", "text", '"text"', "null", "{", "[" * 100_000, '{"epoch": 1' + "0" * 5000 + "}"):
        yield f"line {line[:12]}", _line(line)


def _state(change: Callable[[Any], Any]) -> Damage:
    def damage(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        changed = change(state)
        torch.save(state if changed is None else changed, path)

    return damage


def of_states() -> Iterator[tuple[str, Damage]]:
    """Entries of ``state.pt``."""
    wrong = [..., None, 3, "text", [], {}]
    tensors = [torch.zeros(3, 3, 3), torch.zeros(1), "text"]
    entries = dict.fromkeys(("weights", "optimizer", "rng", "best", "progress", "identity", "metrics_bytes"), wrong)
    entries |= {
        "format": [..., 2, "1", None],
        "has_terms": [..., "no"],
        "lr_schedule": [3, []],
        "threads": ["x", -5, 1e9],
    }
    entries |= {"metrics_bytes": [..., -1, "x", 1.5, None], "optimizer.state": [..., 3, [], {"x": {}}, {99: {}}]}
    entries |= {"optimizer.param_groups": [..., [], [{}], 3, [3]], "optimizer.param_groups.0.lr": [..., "x", None]}
    entries |= {
        "optimizer.param_groups.0.params": [[], [0], "x"],
        "rng.cpu": [..., torch.zeros(5, dtype=torch.uint8), 3],
    }
    entries |= {"progress.epoch": [..., "x", 1.5, None], "progress.loss": ["x", None], "best.elbo": ["x", None]}
    entries |= {"best.weights": [{}, 3, {"a": torch.zeros(1)}], "identity.batch_size": [..., 7, "x", torch.zeros(3)]}
    entries |= {"identity.engine": ["x", 3, None]}
    yield from _places(_state, entries)

    def first(name: str) -> Callable[[Any], Any]:
        return lambda state: next(iter(state["optimizer"]["state"].values())) if name == "optimizer" else state[name]

    for value in [*tensors, torch.zeros(2, dtype=torch.int64)]:
        for name in ("weights", "optimizer"):

            def change(state: Any, name: str = name, value: Any = value) -> None:
                part = first(name)(state)
                part[list(part)[-1]] = value

            yield f"a tensor of {name} is {value!r:.20}", _state(change)
    yield (
        "a tensor of weights of integers",
        _state(lambda s: s["weights"].update({k: v.long() for k, v in s["weights"].items()})),
    )
    yield "a list", _state(lambda state: [state])
    yield "an object", lambda path: torch.save({"format": 1, "evil": Evil()}, path)
    yield "an old format", lambda path: torch.save({"format": 1}, path, _use_new_zipfile_serialization=False)
    yield "compressed", _compressed


def _compressed(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def _weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def damage(path: Path) -> None:
        tensors = load(path.read_bytes())
        change(tensors)
        path.write_bytes(save(tensors))

    return damage


def of_weights() -> Iterator[tuple[str, Damage]]:
    """Tensors and header of ``weights.safetensors``."""
    yield "no tensor", _weights(dict.clear)
    yield "a tensor less", _weights(lambda t: t.pop(next(iter(t))))
    yield "a tensor more", _weights(lambda t: t.update(more=torch.ones(2)))
    yield "another shape", _weights(lambda t: t.update({next(iter(t)): torch.ones(7, 7)}))
    yield "one number", _weights(lambda t: t.update({next(iter(t)): torch.ones(1)}))
    for length in (2**62, 2**40, 100_000_000):
        yield f"a header of {length}", _bytes(lambda b, n=length: struct.pack("<Q", n) + b[8:])
    yield "a header that is no JSON", _bytes(lambda b: b[:8] + b"x" * 100 + b[108:])
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 8]}}).encode()
    yield "a huge shape", _bytes(lambda b: struct.pack("<Q", len(header)) + header + bytes(8))


def _config(change: Callable[[Any], Any]) -> Damage:
    def damage(path: Path) -> None:
        config = yaml.safe_load(path.read_text())
        changed = change(config)
        path.write_text(yaml.safe_dump(config if changed is None else changed))

    return damage


def of_configs() -> Iterator[tuple[str, Damage]]:
    """Entries of ``config.yaml``."""
    entries = {"latent_dim": ["x", -1, [2], None, 1.5, 0], "data": [3, [], "os.system", {"class_path": "os.system"}]}
    entries |= {
        "prior": [{}, 5, "Nothing"],
        "unknown": [3],
        "data.init_args": [3, []],
        "data.init_args.root": [3, "nothing"],
    }
    entries |= {"guide.class_path": [3, "builtins.eval", "pyro_vae.cli.main.main"], "seed": ["x", -5]}
    yield from _places(_config, entries)
    yield "a list", _config(lambda config: [config])
    yield "a number", _config(lambda config: 3)
    for text in (
        "!!python/object/apply:os.system ['touch executed']",
        "a: &a [1]\nb: *a",
        "a: [",
        "\t- x",
        "a: b: c",
        "? [1]\n: 2",
        "null",
    ):
        yield f"text {text[:14]!r}", lambda path, text=text: path.write_text(text)
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    yield "an alias bomb", lambda path: path.write_text(bomb)
    yield "two megabytes", lambda path: path.write_text("seed: 1 #" + "x" * 2_000_000)


def _npz(**changes: Any) -> Damage:
    def damage(path: Path) -> None:
        with np.load(path) as archive:
            arrays = {**archive, **{k: v(archive) if callable(v) else v for k, v in changes.items()}}
        np.savez(path, **{k: v for k, v in arrays.items() if v is not ...})

    return damage


def _header(shape: str, dtype: str = "|u1") -> bytes:
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode()


def headers() -> Iterator[tuple[str, bytes]]:
    """Contents of ``.npy`` files that promise other arrays than they hold."""
    for shape in (f"({GIGA},)", f"({GIGA}, {GIGA}, {GIGA})", "(-1, 3)", "(3.5,)", "x", "(" * 90):
        yield f"shape {shape[:12]}", _header(shape) + bytes(30)
    yield "objects", _header("(3,)", "|O") + pickle.dumps([Evil()])
    yield "an unknown dtype", _header("(3,)", "|Q9") + bytes(30)
    yield "version 9", b"\x93NUMPY\x09\x00" + bytes(100)
    yield "a long header", b"\x93NUMPY\x02\x00" + struct.pack("<I", GIGA) + b"{}"


def of_npz() -> Iterator[tuple[str, Damage]]:
    """Arrays of an ``.npz`` file."""
    objects, count = np.array([Evil(), None], dtype=object), 60
    for name, value in {
        "missing": ...,
        "objects": objects,
        "one image": np.zeros(4, np.uint8),
        "no image": np.zeros((0, 4, 4), np.uint8),
        "five dimensions": np.zeros((60, 1, 4, 4, 4), np.uint8),
        "text": np.array(["a"] * count),
        "records": np.zeros(count, dtype=[("a", "u1")]),
        "complex": np.zeros((count, 4, 4), complex),
        "dates": np.zeros((count, 4), "M8[s]"),
        "nan": np.full((count, 4, 4), np.nan),
        "beyond 255": np.full((count, 4, 4), 300),
        "negative": np.full((count, 4, 4), -1),
        "a scalar": np.uint8(3),
    }.items():
        yield f"images: {name}", _npz(images=value)
    for name, value in {
        "near 2e9": np.full(count, GIGA),
        "one near 2e9": np.array([GIGA] + [0] * (count - 1)),
        "beyond int64": np.full(count, 2**64 - 1, np.uint64),
        "negative": np.full(count, -7),
        "floating": np.zeros(count),
        "too few": np.zeros(3, int),
        "objects": objects,
        "bytes": np.array([b"a"] * count),
    }.items():
        yield f"labels: {name}", _npz(labels=value)
    for name, content in headers():

        def damage(path: Path, content: bytes = content) -> None:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("images.npy", content)

        yield f"images.npy with {name}", damage
    yield "a bomb", _zip_bomb
    yield (
        "encrypted",
        _bytes(lambda b: b.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")),
    )


def _zip_bomb(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w", force_zip64=True) as member,
    ):
        member.write(_header("(1000, 1000, 400)"))
        for _ in range(400):
            member.write(bytes(1_000_000))


def of_npy() -> Iterator[tuple[str, Damage]]:
    """Headers of an ``.npy`` file."""
    for name, content in headers():
        yield name, lambda path, content=content: path.write_bytes(content)


def of_idx() -> Iterator[tuple[str, Damage]]:
    """Headers of MNIST's image file."""
    for name, head in {
        "magic": struct.pack(">IIII", 0x803 + 2**16, 60, 28, 28),
        "labels": struct.pack(">II", 0x801, 60),
        "a huge number": struct.pack(">IIII", 0x803, GIGA, 28, 28),
        "no image": struct.pack(">IIII", 0x803, 0, 28, 28),
        "fewer images": struct.pack(">IIII", 0x803, 30, 28, 28),
        "zero rows": struct.pack(">IIII", 0x803, 60, 0, 28),
    }.items():
        yield name, _bytes(lambda b, head=head: head + b[16:])
    yield "30 whole images", _bytes(lambda b: struct.pack(">IIII", 0x803, 30, 28, 28) + b[16 : 16 + 30 * 784])


def png(shape: tuple[int, int], depth: int = 8) -> bytes:
    """A grey PNG that claims a shape."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows, columns = min(shape[0], 16), min(shape[1], 16)
    pixels = b"".join(b"\0" + bytes(columns * depth // 8) for _ in range(rows))
    head = struct.pack(">IIBBBBB", shape[1], shape[0], depth, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def of_images() -> Iterator[tuple[str, Damage]]:
    """Contents of an image file."""
    for shape in ((60_000, 60_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1), (0, 4), (5, 5)):
        yield f"a picture of {shape}", lambda path, shape=shape: path.write_bytes(png(shape))
    yield "16 bits", lambda path: path.write_bytes(png((4, 4), 16))
    for place in (20, 30, 45):
        yield f"a flip at byte {place}", _bytes(lambda b, n=place: b[:n] + bytes([b[n] ^ 0xFF]) + b[n + 1 :])


def buffer_of(array: np.ndarray) -> bytes:
    """The content of an ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
