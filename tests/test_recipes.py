"""Recipes are configurations of ``pyro-vae train``; the models of the zoo load without data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from pyro_vae import zoo
from pyro_vae.cli.train_options import parse_args

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid_and_their_schedules_end_with_the_training(recipe: Path) -> None:
    options = parse_args(["--config", str(recipe)])
    assert options.epochs > 1
    assert options.ema is not None
    assert options.lr_schedule.init_args.T_max == options.epochs
    assert recipe.stem in (recipe.parent / "README.md").read_text()


@pytest.mark.parametrize("name", zoo.names())
@pytest.mark.usefixtures("single_precision")
def test_models_of_the_zoo_are_small_and_reconstruct(name: str) -> None:
    folder = zoo.FOLDER / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
    vae, description = zoo.load(name), zoo.describe(name)
    assert {"commands", "date", "machine", "results", "data_shape"} <= description.keys()
    assert not vae.training
    x = torch.zeros(3, *description["data_shape"])
    assert vae.likelihood(vae.encode(x).mean).log_prob(x).shape == (3,)
    assert json.loads((folder / "model.json").read_text()) == description


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match="zoo: name must be one of '"):
        zoo.load("lenna")


def test_records_name_no_folder_of_a_machine() -> None:
    results = Path(__file__).parents[1] / "benchmarks/results"
    for file in results.rglob("*"):
        if file.suffix in (".json", ".jsonl", ".yaml", ".txt", ".md"):
            folders = re.findall(r"""(?:^|[\s'"=])((?:\.\.|~)?/\w[\w./-]*)""", file.read_text())
            assert folders == [], f"{file.name}: {folders}"
