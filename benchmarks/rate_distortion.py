"""Rate-distortion autoencoders against JPEG, WebP and VAEs: bits, squared error, and how sharp reconstructions are.

    python benchmarks/rate_distortion.py --data fashion --root DATA --runs RUNS
    python benchmarks/rate_distortion.py --data faces --runs RUNS
    python benchmarks/rate_distortion.py --data faces --runs RUNS --points w100 h100 beta1 --epochs 2 --images 100

A point is ``w`` and the weight of the squared error, with a factorized prior; ``h`` and this weight, with a hyperprior;
or ``beta`` and the beta of a VAE, whose rate is the KL. Each is trained in a folder of RUNS and measured on test images
once: the same command resumes after an interruption. Further options are those of ``pyro-vae train``, for another RUNS.

Sharpness is the mean energy of the Laplacian of the reconstructions, divided by that of the images; the Frechet
distance is that of the reconstructions to the images, in the features of a small classifier of the data's classes, or
of a random network. The formats' images are on one sheet, joined as they are; they are also measured extended to blocks
of 16 pixels.
"""

from __future__ import annotations

import argparse
import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, provenance
from torch import Tensor

from pyro_vae import Faces, load_run
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.files import json_ready
from pyro_vae.cli.rate_distortion import as_text
from pyro_vae.cli.train_options import parse_args
from pyro_vae.compression import rate_distortion
from pyro_vae.compression.image_formats import bits_at, image_formats
from pyro_vae.compression.lossy import is_coder, reconstructions
from pyro_vae.evaluation import LossyCode
from pyro_vae.evaluation.feature_distances import frechet_distance, laplacian_energy
from pyro_vae.evaluation.image_features import ImageFeatures
from pyro_vae.experiments.experiment import instantiate, to_yaml, train
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.plotting import rate_distortion_curve
from pyro_vae.plotting.save import save_png
from pyro_vae.training import RunFolder

DATA = {
    "fashion": "--data FashionMNIST --data.validation 10000 --latent_dim 256",
    "faces": "--data Faces --data.count 6000 --latent_dim 64",
}
COMMON = (
    "--data.binarize none --likelihood NormalLikelihood --likelihood.net ConvDecoder --likelihood.net.channels [32,16] "
    "--likelihood.net.activation elu --guide.net ConvEncoder --guide.net.channels [16,32] --guide.net.activation elu "
    "--optimizer.lr 0.002 --lr_schedule CosineAnnealingLR --batch_size 100 --engine eager --device cpu --seed 0"
)
EPOCHS = {"fashion": 9, "faces": 90}
POINTS = {
    "fashion": ("w20", "w100", "w500", "h500", "beta0.1", "beta0.5", "beta2.5"),
    "faces": ("w30", "w100", "w300", "w1000", "h300", "beta0.05", "beta0.2"),
}
CODER = "--guide QuantizedGuide --guide.gain 10 --objective RateDistortion"
HYPER = "--prior HyperPrior --prior.hyper_dim 16 --prior.net.hidden [100]"
CHUNK_SIZES = {"fashion": 1000, "faces": 5000}  # a chunk adds 60 bytes; many are coded faster, side by side


def options_of(point: str, data: str, epochs: int) -> list[str]:
    """Arguments of ``pyro-vae train`` of a point."""
    if point.startswith("beta"):
        model = f"--objective BetaELBO --objective.beta {float(point[4:])} --likelihood.scale 0.1"
    else:
        weight = float(point[1:])
        prior = {"w": "--prior FactorizedPrior --prior.filters [3] --prior.init_scale 5", "h": HYPER}[point[0]]
        model = f"{prior} {CODER} --objective.weight {weight} --likelihood.scale {round((2 * weight) ** -0.5, 4)}"
    return f"{COMMON} {DATA[data]} --epochs {epochs} --lr_schedule.T_max {epochs} {model}".split()


def train_or_resume(folder: Path, options: list[str], root: str | None) -> None:
    """Train in the run folder of a point, from where it stopped."""
    parsed = parse_args([*options, *(["--data.root", root] if root else [])], [])
    resume = folder.exists()
    run = RunFolder(folder) if resume else RunFolder.create(folder, config=to_yaml(parsed))
    train(**instantiate(parsed), run=run, resume=resume, may_download=False, trust=[])


def test_images(data: str, num: int, run: TrainedModel) -> Tensor:
    """Test images of the data set; faces are drawn, with another seed than those of the training."""
    if data == "faces":
        raw: Any = Faces(count=max(num, 12), draw_seed=1).raw()
        return torch.cat([raw.train, raw.test])[:num].float() / raw.max_value
    return run.images("test").batch(slice(0, num), dtype=torch.float32)


def decoded(vae: Any, x: Tensor) -> Tensor:
    """The reconstructions that a decoder of the files sees; of a VAE, those at samples of q(z | x)."""
    with isolated_rng(0), torch.no_grad():
        encode = vae.guide.code if is_coder(vae) else lambda part: vae.encode(part).sample()
        return reconstructions(vae, torch.cat([encode(part) for part in x.split(500)])).float()


def measured(run: TrainedModel, x: Tensor, project: ImageFeatures, seconds: float, chunk_size: int) -> LossyCode:
    """Rate and distortion of a run, with sharpness, Frechet distance and seconds in the protocol."""
    images = decoded(run.vae, x)
    entries = {
        "sharpness": float(laplacian_energy(images).mean()) / float(laplacian_energy(x).mean()),
        "frechet_distance": frechet_distance(project(images), project(x)),
        "training_seconds": seconds,
    }
    return rate_distortion(run.vae, x, chunk_size=chunk_size, protocol={**run.protocol, **entries})


def measure(commands: dict[str, list[str]], args: argparse.Namespace) -> tuple[dict[str, LossyCode], Tensor]:
    """The result of each point, from its file in RUNS if there is one, and the test images."""
    results, x = {}, None
    features = cache(lambda: ImageFeatures(run.images("train"), num_steps=300))
    for name, options in commands.items():
        folder = args.runs / f"{name}-{args.epochs}"
        file = folder.with_name(f"{folder.name}-{args.images}.json")
        if not file.exists():
            train_or_resume(folder, options, args.root)
        if x is None or not file.exists():
            run = load_run(folder, device="cpu", root=args.root)
            x = test_images(args.data, args.images, run) if x is None else x
        if not file.exists():
            seconds = sum(line["seconds"] for line in RunFolder(folder).metrics())
            measured(run, x, features(), seconds, CHUNK_SIZES[args.data]).save(file)
        results[name] = LossyCode.load(file)
    return results, x


def record(args: argparse.Namespace, results: dict[str, LossyCode], formats: dict[int, Any], used: list[str]) -> Path:
    """Write ``DATA.json`` and the figure to the folder of ``--out``."""
    args.out.mkdir(exist_ok=True, parents=True)
    rows = {}
    for name, result in results.items():
        at = partial(bits_at, squared_error=result.mean("squared_error"))
        kept = ("sharpness", "frechet_distance", "training_seconds", "file_bytes")
        rows[name] = {**result.summary(), **{key: result.protocol[key] for key in kept}}
        rows[name]["formats_at_this_error"] = {key: at(points) for key, points in formats[1].items()}
    points = {block: {key: [p._asdict() for p in ps] for key, ps in entry.items()} for block, entry in formats.items()}
    content = {**provenance(used, ""), "test_images": len(next(iter(results.values()))), "runs": rows}
    text = json.dumps(json_ready({**content, "formats_by_block": points}), indent=1, allow_nan=False)
    (args.out / f"{args.data}.json").write_text(text + "\n")
    figure = rate_distortion_curve(list(results.values()), formats[1], caption=args.data)
    save_png(figure, args.out / f"{args.data}.png")
    return args.out / f"{args.data}.json"


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=DATA, required=True)
    parser.add_argument("--root", help="folder of the data set")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trained runs and their results")
    parser.add_argument("--points", nargs="+", help="such as w100, h100 and beta1")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--images", type=int, default=10_000, help="number of test images")
    parser.add_argument("--out", type=Path, default=RESULTS / "rate-distortion", help="folder of the record")
    args, more = parser.parse_known_args(words)
    args.epochs = args.epochs or EPOCHS[args.data]
    torch.set_num_threads(1)
    points = args.points or POINTS[args.data]
    commands = {f"{args.data}-{point}": [*options_of(point, args.data, args.epochs), *more] for point in points}
    args.runs.mkdir(exist_ok=True, parents=True)
    results, x = measure(commands, args)
    formats = {block: image_formats(x, block=block) for block in (16, 1)}
    print(as_text(results, formats[1]))
    used = [f"pyro-vae train {' '.join(options)} --out RUNS/{name}" for name, options in commands.items()]
    used.append(f"python benchmarks/rate_distortion.py --data {args.data} --runs RUNS")
    print(record(args, results, formats, used))


if __name__ == "__main__":
    main()
