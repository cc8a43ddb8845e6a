"""Five small data sets, shaped like photographs, scans, spectra, counts and a survey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("dusk", "forest")


def photographs(folder: Path, num: int = 40, size: int = 12) -> Path:
    """Colour images in two class folders: shades and a bright spot, saved as jpg."""
    rng, grid = np.random.default_rng(0), np.mgrid[0:size, 0:size] / size
    for k, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(num // 2):
            shade = rng.uniform(0, 1, 3) + 0.4 * grid[k][..., None] * rng.normal(size=3)
            distance = ((grid - rng.uniform(0.2, 0.8, (2, 1, 1))) ** 2).sum(0)
            image = shade + 0.5 * np.exp(-distance / 0.03)[..., None] + 0.02 * rng.normal(size=(size, size, 3))
            Image.fromarray((image.clip(0, 1) * 255).astype(np.uint8)).save(folder / name / f"{i:02}.jpg", quality=95)
    return folder


def scans(num: int = 60, size: int = 10) -> np.ndarray:
    """Grey bytes ``(N, H, W)`` of brightness and noise."""
    rng = np.random.default_rng(0)
    image = rng.normal(0.6, 0.2, (num, 1, 1)) + 0.1 * rng.normal(size=(num, size, size))
    return (image.clip(0, 1) * 255).astype(np.uint8)


def spectra(num: int = 80, dim: int = 30) -> np.ndarray:
    """Absorbances ``(N, D)``: three bands of random heights, in float32."""
    rng, grid = np.random.default_rng(0), np.linspace(0, 1, dim)
    bands = sum(rng.gamma(2, 0.2, (num, 1)) * np.exp(-((grid - c) ** 2) / 0.005) for c in (0.2, 0.5, 0.8))
    return (bands + 0.01 * rng.normal(size=(num, dim))).astype(np.float32)


def counts(num: int = 80, dim: int = 20) -> np.ndarray:
    """Overdispersed counts ``(N, D)`` of two factors, most of them small."""
    rng = np.random.default_rng(0)
    log_mean = rng.normal(size=(num, 2)) @ rng.normal(size=(2, dim)) * 0.5
    return rng.poisson(rng.gamma(2, 0.5, (num, dim)) * np.exp(log_mean))


def survey(path: Path, num: int = 120, missing: float = 0.0) -> Path:
    """A csv file with ages, incomes, numbers of children, answers from 1 to 5, texts and a flag."""
    rng = np.random.default_rng(0)
    columns = {
        "age": rng.integers(18, 90, num),
        "income": np.exp(rng.normal(10, 0.5, num)).round(2),
        "children": rng.poisson(1.2, num),
        "satisfaction": np.r_[1:6, rng.integers(1, 6, num - 5)],
        "sex": rng.choice(["f", "m"], num),
        "region": rng.choice(["north", "south", "east"], num),
        "smoker": (rng.random(num) < 0.3).astype(int),
    }
    rows = [list(map(str, row)) for row in zip(*columns.values(), strict=True)]
    rows = [["" if rng.random() < missing else cell for cell in row] for row in rows]
    path.write_text("\n".join(",".join(row) for row in [list(columns), *rows]) + "\n")
    return path
