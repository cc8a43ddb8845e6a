"""Modules can be reached by their names: no function or class of a package hides one of its modules."""

import importlib
import pkgutil

import pytest

import pyro_vae

PACKAGES = [
    "pyro_vae",
    *(info.name for info in pkgutil.walk_packages(pyro_vae.__path__, "pyro_vae.") if info.ispkg),
]


@pytest.mark.parametrize("name", PACKAGES)
def test_no_module_is_hidden(name: str) -> None:
    package = importlib.import_module(name)
    modules = [info.name for info in pkgutil.iter_modules(package.__path__) if info.name != "__main__"]
    hidden = [m for m in modules if importlib.import_module(f"{name}.{m}") is not getattr(package, m)]
    assert hidden == []


def test_no_evaluation_module_has_the_name_of_its_function() -> None:
    names = [info.name for info in pkgutil.iter_modules(pyro_vae.evaluation.__path__)]
    assert [n for n in names if hasattr(importlib.import_module(f"pyro_vae.evaluation.{n}"), n)] == []
