"""Attribute vectors on drawn faces: what an edit changes, measured by a regressor of the six factors from pixels.

    python benchmarks/face_attributes.py --out result.json                           # five seeds, 32 x 32 grey pixels
    python benchmarks/face_attributes.py --seeds 0 --color --net conv --rate 2e-3 --epochs 120 --picture faces.png

The vector of an attribute is computed from training faces, and added to the codes of test faces without glasses. The
regressor is trained on drawn training faces, and reads the decoded ones before and after the edit. Which factors the
code contains shows in what the regressor reads from reconstructed validation faces, by which settings are chosen.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
from record import machine
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from pyro_vae import VAE, Faces, fit, guides, latents, likelihoods, networks, priors
from pyro_vae.data import Splits
from pyro_vae.data.face_drawing import FACTORS
from pyro_vae.plotting import image_grid

LATENT_DIM, BATCH_SIZE, HIDDEN, CHANNELS, REGRESSOR_EPOCHS = 16, 64, (256, 256), (16, 32, 64), 12
WARMUP = 100  # steps, of convolutional networks
SPLITS = ("train", "validation", "test")
CAPTION = (
    "Columns: face, reconstruction, frown, smile, turned left and right, glasses, smile and turned right with glasses"
)


def factors_of(data: Faces, splits: Splits, split: str) -> Tensor:
    """The factors of a split, ``(N, 6)``."""
    return torch.stack(list(data.factors.values()), -1)[getattr(splits, split).rows]


def train_regressor(x: Tensor, factors: Tensor) -> nn.Module:
    """Train a small convolutional network that predicts the factors from pixels, by least squares."""
    layers: list[nn.Module] = []
    for channels in (16, 32, 64):
        layers += [nn.LazyConv2d(channels, 4, 2, 1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), nn.LazyLinear(factors.shape[1]))
    net(x[:1])
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, REGRESSOR_EPOCHS)
    for _ in range(REGRESSOR_EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH_SIZE):
            optimizer.zero_grad()
            mse_loss(net(x[rows]), factors[rows]).backward()
            optimizer.step()
        schedule.step()
    return net.eval().requires_grad_(False)


def build_vae(splits: Splits, net: str, scale: float) -> VAE:
    """A VAE of perceptrons or of convolutional networks."""
    encoder = decoder = partial(networks.MLP, hidden=HIDDEN, activation="relu")
    if net == "conv":
        encoder = partial(networks.ConvEncoder, channels=CHANNELS, activation="silu")
        decoder = partial(networks.ConvDecoder, channels=CHANNELS[::-1], activation="silu")
    likelihood = likelihoods.NormalLikelihood(LATENT_DIM, splits.data_shape, net=decoder, scale=scale)
    guide = guides.DiagonalNormalGuide(splits.data_shape, LATENT_DIM, net=encoder)
    return VAE(priors.StandardNormalPrior(LATENT_DIM), likelihood, guide)


def train_vae(splits: Splits, seed: int, args: argparse.Namespace) -> VAE:
    """Train the VAE of a seed with the plain ELBO."""
    torch.manual_seed(seed)
    vae = build_vae(splits, args.net, args.scale)
    options = {"epochs": args.epochs, "batch_size": BATCH_SIZE, "optimizer": partial(torch.optim.Adam, lr=args.rate)}
    if args.net == "conv":  # starts at the mean face; the rate rises, then decays
        vae.likelihood.initialise_mean(splits.train.batch(slice(None), dtype=torch.float32).mean(0))
        options["lr_schedule"] = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=args.epochs)
        options["lr_warmup"] = WARMUP
    fit(vae.model, vae.guide, splits.train, **options, engine="eager", seed=seed, progress=False)
    return vae


def vectors(vae: VAE, splits: Splits, factors: Tensor) -> Tensor:
    """One vector for each factor, ``(6, L)``: from low to high values, corrected for the other factors."""
    high = factors > factors.median(0).values.clamp_max(0.5)  # of glasses, 0 or 1, a middle
    return latents.attribute_vector(vae, splits.train, high)


def explained(predicted: Tensor, factors: Tensor) -> dict[str, float]:
    """R^2 of each factor."""
    errors = (predicted - factors).square().mean(0)
    return dict(zip(FACTORS, (1 - errors / factors.var(0)).tolist(), strict=True))


def changes(vae: VAE, x: Tensor, vector: Tensor, regressor: nn.Module) -> Tensor:
    """Change of the predicted factors of each face by an edit, ``(N, 6)``."""
    before, after = latents.reconstruct(vae, x), latents.edit(vae, x, vector)
    return regressor(after.means) - regressor(before.means)


def neutral(factors: Tensor, num: int) -> Tensor:
    """Rows of faces without glasses that look ahead and neither smile nor frown."""
    return factors[:, :3].square().sum(-1).argsort()[:num]  # smile, turn and glasses


def picture(vae: VAE, x: Tensor, directions: Tensor, path: Path, caption: str) -> None:
    """Rows of faces: the image, its reconstruction, frowning, smiling, turned to both sides, with glasses, and all."""
    smile, turn, glasses = directions[:3]
    moves = [0 * smile, -smile, smile, -0.45 * turn, 0.45 * turn, glasses, smile + 0.3 * turn + glasses]
    columns = [x, *(latents.edit(vae, x, vector).means for vector in moves)]
    image_grid(torch.stack(columns, 1).flatten(0, 1), columns=len(columns), caption=caption).savefig(path, dpi=200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--color", action="store_true")
    parser.add_argument("--net", choices=["mlp", "conv"], default="mlp")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--scale", type=float, default=0.05, help="of the normal pixels (default 0.05)")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate (default 1e-3)")
    parser.add_argument("--out", type=Path, help="JSON to write the numbers and the machine to")
    parser.add_argument("--picture", type=Path, help="PNG of edited faces, by the model of the last seed")
    args = parser.parse_args()
    data = Faces(size=args.size, color=args.color)
    splits, names = data.load(), list(FACTORS)
    factors = {split: factors_of(data, splits, split) for split in SPLITS}
    images = {split: getattr(splits, split).batch(slice(None), dtype=torch.float32) for split in SPLITS}
    torch.manual_seed(0)
    regressor, start = train_regressor(images["train"], factors["train"]), time.perf_counter()
    accuracy = explained(regressor(images["test"]), factors["test"])
    print("R^2 of the regressor:", accuracy, flush=True)
    without, rows = factors["test"][:, names.index("glasses")] == 0, []
    for seed in args.seeds:
        vae = train_vae(splits, seed, args)
        reconstructed = latents.reconstruct(vae, images["validation"]).means
        encoded = explained(regressor(reconstructed), factors["validation"])
        directions = vectors(vae, splits, factors["train"])
        change = changes(vae, images["test"][without], directions[names.index("glasses")], regressor)
        mean, absolute = (dict(zip(names, v.tolist(), strict=True)) for v in (change.mean(0), change.abs().mean(0)))
        rows.append({"seed": seed, "reconstructed_r2": encoded, "change": mean, "absolute_change": absolute})
        print(f"{time.perf_counter() - start:.0f} s", rows[-1], flush=True)
    if args.out:
        widths = {"hidden": HIDDEN} if args.net == "mlp" else {"channels": CHANNELS}
        settings = {"latent_dim": LATENT_DIM, "scale": args.scale, "epochs": args.epochs, **widths, "lr": args.rate}
        content = {"regressor_r2": accuracy, "glasses": rows, "num_test": int(without.sum()), "settings": settings}
        args.out.write_text(json.dumps({**content, "data": repr(data), **machine()}, indent=1) + "\n")
    if args.picture:
        picture(vae, images["test"][neutral(factors["test"], 4)], directions, args.picture, CAPTION)


if __name__ == "__main__":
    main()
