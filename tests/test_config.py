"""Names of components, and what a configuration may import."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from pyro_vae.experiments.components import assign, exact_name, resolve
from pyro_vae.experiments.config import read_config


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("data", "mnist", "MNIST"),
        ("data", "frey_faces", "FreyFaces"),
        ("objective", "mean_field_elbo", "MeanFieldELBO"),
        ("objective", "elbo", "ELBO"),
        ("objective", "iwae", "IWAE"),
        ("objective", "doubly_reparameterized", "DoublyReparameterized"),
        ("net", "gatedmlp", "GatedMLP"),
        ("optimizer", "adam", "Adam"),
        ("lr_schedule", "cosineannealinglr", "CosineAnnealingLR"),
        ("classifier", "categorical_guide", "CategoricalGuide"),
        ("label_prior", "categoricalprior", "CategoricalPrior"),
    ],
)
def test_names_are_case_insensitive(kind: str, name: str, expected: str) -> None:
    assert exact_name(kind, name) == expected


def arguments(kind: str, value: object) -> dict:
    return resolve(kind, value)["init_args"]


def test_a_chosen_class_has_its_defaults_and_not_those_of_the_default_class() -> None:
    assert arguments("data", "frey_faces")["binarize"] == "none"
    assert arguments("optimizer", "adagrad")["lr"] == 0.01
    assert arguments("net", "gated_mlp") == {"hidden": (300, 300), "dropout": 0.0}
    guide = arguments("guide", {"class_path": "DiagonalNormalGuide", "init_args": {"log_scale_bounds": [-3.0, 1.0]}})
    assert guide["net"]["init_args"]["hidden"] == (200, 200)
    assert guide["log_scale_bounds"] == [-3.0, 1.0]
    data = arguments("data", {"class_path": "FreyFaces", "init_args": {"root": "here"}})
    assert data == {"root": "here", "binarize": "none", "validation": 200, "seed": 0, "context": None}


@pytest.mark.parametrize("value", [None, 0.5, "0.5", "[1, 2]", "", "{unclosed"])
def test_values_that_are_not_names_are_unchanged(value: object) -> None:
    assert resolve("beta", value) == value


def test_an_option_is_set_in_its_component() -> None:
    options = {"epochs": 1, "guide": resolve("guide", "iaf_guide")}
    assign(options, "guide.net", "gated_mlp")
    assign(options, "guide", {"num_flows": 2})
    assign(options, "guide.net.hidden", "[7]")
    guide = options["guide"]["init_args"]
    assert guide["net"] == {
        "class_path": "pyro_vae.networks.mlp.GatedMLP",
        "init_args": {"hidden": "[7]", "dropout": 0.0},
    }
    assert guide["num_flows"] == 2
    assert resolve("guide", "iaf_guide")["init_args"]["num_flows"] == 4  # the defaults are not changed
    with pytest.raises(ValueError, match=r"unknown option --guide\.net\.hiden; did you mean --guide\.net\.hidden\?"):
        assign(options, "guide.net.hiden", "[7]")


def test_the_run_of_m1_is_a_path() -> None:
    assert read_config("m1: ../runs/m1.v2", "c") == {"m1": "../runs/m1.v2"}
    assert arguments("classifier", "categorical_guide")["estimator"] == "enumerate"
    with pytest.raises(ValueError, match="classifier: must be one of CategoricalGuide"):
        resolve("classifier", "DiagonalNormalGuide")


def test_errors_list_unknown_and_valid_names() -> None:
    message = r"guide: must be one of AuxiliaryGuide, .*DiagonalNormalGuide, .*got Nope"
    with pytest.raises(ValueError, match=message):
        exact_name("guide", "Nope")


GOOD = """
data: {class_path: pyro_vae.MNIST, init_args: {root: ../some/where.v2, binarize: dynamic}}
guide: diagonal_normal_guide
optimizer: {class_path: torch.optim.Adam, init_args: {lr: 1.0e-3, betas: [0.9, 0.999], fused: null}}
lr_schedule: {class_path: torch.optim.lr_scheduler.CosineAnnealingLR, init_args: {T_max: 5}}
epochs: 3
"""


def test_a_configuration_of_this_package_is_read() -> None:
    config = read_config(GOOD, "config.yaml")
    assert config["guide"] == "diagonal_normal_guide"
    assert config["data"]["init_args"]["root"] == "../some/where.v2"
    assert config["optimizer"]["init_args"]["lr"] == 1e-3


@pytest.mark.parametrize(
    "text",
    [
        "guide: os.system",
        "guide: {class_path: evil.Guide}",
        "guide: {class_path: pyro_vae.guides.DiagonalNormalGuide, init_args: {net: evil.Net}}",
        "guide: {class_path: pyro_vae.guides.DiagonalNormalGuide, init_args: {net: {class_path: evil.nets.Net}}}",
        'prior: \'{"class_path": "evil.Prior"}\'',
        "lr_schedule: {class_path: torch.optim.lr_scheduler.LambdaLR, init_args: {lr_lambda: os.abort}}",
        "lr_schedule: {class_path: torch.optim.lr_scheduler.LambdaLR, init_args: {lr_lambda: torch.optim.x.os.abort}}",
        "optimizer: torch.optim.adam.torch.hub.load",
        "optimizer: {class_path: torch.hub.load, init_args: {repo_or_dir: evil}}",
        "objective: [evil.Objective]",
        "prior: ./other.yaml",
        "prior: 'pyro_vae.X\nevil.Y'",
        "config: other.yaml",
        "guide: {evilmod.X: {}}",
        "guide.class_path: evil.X",
        "seed: !!binary aGk=",
        "data: &a {root: *a}",
        "guide: os\u2024system",
        "[" * 3000,
        "resume: runs/other",
        "a: !!python/object/apply:os.system [ls]",
        "- just\n- a list",
        "a: [unclosed",
    ],
)
def test_text_that_could_import_code_raises(text: str) -> None:
    with pytest.raises(ValueError, match=r"config\.yaml: must") as error:
        read_config(text, "config.yaml")
    assert "\n" not in str(error.value).replace("\\n", "")


def test_trust_allows_only_one_package() -> None:
    text = "guide: {class_path: mine.guides.MyGuide}"
    assert read_config(text, "c", trust=["mine"])["guide"]["class_path"] == "mine.guides.MyGuide"
    with pytest.raises(ValueError, match="--trust mine"):
        read_config(text, "c", trust=["other"])
    with pytest.raises(ValueError, match="must name only classes"):
        read_config("guide: minefield.X", "c", trust=["mine"])


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghijklmnop"))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (BOMB, "must not contain YAML anchors and aliases, got 'a'. Write the value out."),
        ("guide: *a", "must not contain YAML anchors and aliases"),
        ("a: " + "[" * 900 + "]" * 900, "must be nested at most 20 deep"),
        ("a: " + "[" * 500_000, "must be nested at most 20 deep"),
        ("a: " + "x" * 1_000_000, "must have at most 1000000 bytes"),
    ],
    ids=["bomb", "alias", "nested", "open", "long"],
)
def test_a_small_text_cannot_become_a_large_configuration(text: str, rule: str) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=r"^config\.yaml: must") as error:
        read_config(text, "config.yaml")
    assert rule in str(error.value)
    assert time.process_time() - start < 1
