"""Compress the test images of trained models and record the files: rate, times, and decodings elsewhere.

    python benchmarks/compression.py mnist-vae-50 --data.root DATA
    python benchmarks/compression.py runs/vamp --data.root DATA --num-particles 10

MODEL is a run folder or a name of the model zoo. The file is decoded in another process with larger batches, the first
images also with two threads, and, for an MLP of tanh units and with ``--numpy-images``, by ``numpy_decoder.py``.
Times are of the processor, which other programs disturb less; they include the recording of the networks.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy_decoder import last_data
from record import RESULTS, machine
from torch import Tensor

from pyro_vae import MNIST, load_run, log_likelihood, zoo
from pyro_vae._core.files import json_ready
from pyro_vae.compression import chunks, compress, decompress
from pyro_vae.compression.code_lengths import code_length_of
from pyro_vae.compression.container import write
from pyro_vae.compression.encoder import Encoder

FILE = RESULTS / "compression.json"


def model_and_images(name: str, root: str, split: str = "test") -> tuple[Any, Any]:
    """The model, and the images that its run or the zoo's data set has in a split."""
    if name in zoo.names():
        return zoo.load(name), MNIST(root=root, binarize="dynamic").load().test
    run = load_run(name, device="cpu", root=root)
    return run.vae, run.images(split)


def decoded_elsewhere(model: str, root: str, folder: Path) -> tuple[Tensor, float]:
    """The data restored by another process, and its processor time in seconds."""
    arguments = [model, "--data.root", root, "--decode", str(folder)]
    subprocess.run([sys.executable, __file__, *arguments], check=True)
    seconds = float((folder / "seconds").read_text())
    return torch.from_numpy(np.load(folder / "back.npy")), seconds


def decode(model: str, root: str, folder: Path) -> None:
    """Decode with one thread and five more rows in every batch, and a short file with two threads."""
    torch.set_num_threads(1)
    built = chunks.Coders._bits_back
    chunks.Coders._bits_back = lambda self, rows: built(self, rows + 5)
    vae, _ = model_and_images(model, root)
    start = time.process_time()
    x = decompress(vae, (folder / "file.pvz").read_bytes())
    (folder / "seconds").write_text(str(time.process_time() - start))
    torch.set_num_threads(2)
    few = decompress(vae, (folder / "few.pvz").read_bytes())
    if not torch.equal(few, x[: len(few)]):
        raise AssertionError("two threads restore other data than one")
    np.save(folder / "back.npy", x.numpy())


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Rate, times and checks of one model."""
    torch.set_num_threads(1)
    vae, images = model_and_images(args.model, args.root)
    torch.manual_seed(0)
    x = images.batch(slice(0, args.num_data), dtype=torch.float32)
    options = {"chunk_size": args.chunk_size, "num_particles": args.num_particles}
    start = time.process_time()
    encoder = Encoder(vae, x, **options)
    encoded = list(encoder.chunks())
    seconds = time.process_time() - start
    write(file := io.BytesIO(), encoder.header, (chunk.content for chunk in encoded))
    content = file.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "file.pvz").write_bytes(content)
        (Path(folder) / "few.pvz").write_bytes(compress(vae, x[:20], **options))
        back, seconds_back = decoded_elsewhere(args.model, args.root, Path(folder))
    checks = {"another process, larger batches, two threads (20 images)": torch.equal(back, x)}
    if args.numpy_images:
        end = min(args.chunk_size, len(x))
        expected = x[end - args.numpy_images : end].flatten(1).numpy()
        same = np.array_equal(last_data(vae, content, args.numpy_images), expected)
        checks[f"numpy alone, {args.numpy_images} images"] = same
    bounds = log_likelihood(vae.model, vae.guide, x, num_samples=args.num_samples)
    result = code_length_of(encoder, encoded, bounds, {**bounds.protocol, **options})
    times = {"compress": seconds, "decompress": seconds_back}
    milliseconds = {f"{name}_ms_per_image": 1000 * value / len(x) for name, value in times.items()}
    return {**result.summary(), **milliseconds, "restored": checks, "protocol": result.protocol}


def main() -> None:
    """Measure a model and add it to the record."""
    parser = argparse.ArgumentParser(description="Record the lossless compression of test images.")
    parser.add_argument("model", help="run folder or name of the model zoo")
    parser.add_argument("--data.root", dest="root", required=True)
    parser.add_argument("--name", help="of the entry (default: the model's)")
    parser.add_argument("--num-data", type=int, default=10_000)
    parser.add_argument("--num-samples", type=int, default=20, help="samples of the bounds")
    parser.add_argument("--num-particles", type=int, default=1)
    parser.add_argument("--chunk-size", type=int, default=2500)
    parser.add_argument("--numpy-images", type=int, default=0, help="images that are decoded by numpy alone")
    parser.add_argument("--decode", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.decode:
        decode(args.model, args.root, args.decode)
        return
    particles = f", {args.num_particles} particles" if args.num_particles > 1 else ""
    name = args.name or f"{Path(args.model).name}{particles}"
    record = {**measure(args), "machine": machine()}
    records = {**(json.loads(FILE.read_text()) if FILE.exists() else {}), name: record}
    FILE.write_text(json.dumps(json_ready(records), indent=1) + "\n")
    print(json.dumps(json_ready({name: records[name]}), indent=1))


if __name__ == "__main__":
    main()
