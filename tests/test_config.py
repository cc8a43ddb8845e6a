"""What a configuration may name, and what it may not."""

from __future__ import annotations

import pytest

from pyro_vae.experiments.config import component, component_name, load_config


@pytest.mark.parametrize(
    ("kind", "given", "meant"),
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
        ("beta", "0.5", "0.5"),
        ("guide", "my_package.MyGuide", "my_package.MyGuide"),
        ("classifier", "categorical_guide", "CategoricalGuide"),
        ("label_prior", "categoricalprior", "CategoricalPrior"),
    ],
)
def test_names_are_found_whatever_their_case(kind: str, given: str, meant: str) -> None:
    assert component_name(kind, given) == meant


def test_a_chosen_class_has_its_own_defaults_and_not_those_of_the_default_class() -> None:
    assert component("data", "frey_faces")["init_args"]["binarize"] == "none"
    assert component("optimizer", "adagrad")["init_args"]["lr"] == 0.01
    assert component("net", "gated_mlp")["init_args"] == {"hidden": [300, 300], "dropout": 0.0}
    guide = component("guide", "DiagonalNormalGuide", {"log_scale_bounds": [-3.0, 1.0]})["init_args"]
    assert guide["net"]["init_args"]["hidden"] == [200, 200]
    assert guide["log_scale_bounds"] == [-3.0, 1.0]
    assert component("beta", "0.5") == "0.5"
    config = load_config("data: {class_path: FreyFaces, init_args: {root: here}}", "c")
    assert config["data"]["init_args"] == {"root": "here", "binarize": "none", "validation": 200, "seed": 0}


def test_the_run_that_a_model_stands_on_is_a_path_and_no_class() -> None:
    assert load_config("m1: ../runs/m1.v2", "c") == {"m1": "../runs/m1.v2"}
    assert component("classifier", "categorical_guide")["init_args"]["estimator"] == "enumerate"
    with pytest.raises(ValueError, match="classifier: must be one of CategoricalGuide"):
        load_config("classifier: DiagonalNormalGuide", "c")


def test_unknown_names_are_listed_against_the_known() -> None:
    message = r"guide: must be one of AuxiliaryGuide, .*DiagonalNormalGuide, .*got guide='Nope'"
    with pytest.raises(ValueError, match=message):
        component_name("guide", "Nope")


GOOD = """
data: {class_path: pyro_vae.MNIST, init_args: {root: ../some/where.v2, binarize: dynamic}}
guide: diagonal_normal_guide
optimizer: {class_path: torch.optim.Adam, init_args: {lr: 1.0e-3, betas: [0.9, 0.999], fused: null}}
lr_schedule: {class_path: torch.optim.lr_scheduler.CosineAnnealingLR, init_args: {T_max: 5}}
epochs: 3
"""


def test_a_configuration_of_ours_is_taken_and_its_names_made_exact() -> None:
    config = load_config(GOOD, "config.yaml")
    assert config["guide"]["class_path"].endswith(".DiagonalNormalGuide")
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
def test_whatever_could_execute_or_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"config\.yaml: must") as error:
        load_config(text, "config.yaml")
    assert "\n" not in str(error.value).replace("\\n", "")


def test_trust_opens_one_package_only() -> None:
    text = "guide: {class_path: mine.guides.MyGuide}"
    assert load_config(text, "c", trust=["mine"])["guide"]["class_path"] == "mine.guides.MyGuide"
    with pytest.raises(ValueError, match="--trust mine"):
        load_config(text, "c", trust=["other"])
    with pytest.raises(ValueError, match="must name only classes"):
        load_config("guide: minefield.X", "c", trust=["mine"])
