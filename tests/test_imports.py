"""Imports point down the floors of the rule, and importing the package changes nothing outside it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae
from tools.imports import PACKAGE, allowed, circles, file_graph, folder_of, imported_folders, main, package_files


def test_the_rule_covers_the_package_under_test():
    assert Path(pyro_vae.__file__).parent == PACKAGE


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    user = folder_of(path)
    wrong = [(line, used) for line, used in imported_folders(ast.parse(path.read_text())) if not allowed(user, used)]
    assert wrong == []


def test_no_files_import_each_other():
    assert circles(file_graph()) == []


def test_the_graph_is_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["imports", str(tmp_path / "imports.svg")])
    assert main() == 0
    assert "<svg" in (tmp_path / "imports.svg").read_text()
    printed = capsys.readouterr().out
    assert "0 arrows against the rule" in printed
    assert "0 circles among folders" in printed


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}, [["a", "b", "c"]]),
        ({"a": {"b", "c"}, "b": {"a"}, "c": {"d"}, "d": {"c"}}, [["a", "b"], ["c", "d"]]),
    ],
)
def test_circles_are_strongly_connected_components(graph, expected):
    assert sorted(circles(graph)) == expected


@pytest.mark.parametrize(
    ("user", "source"),
    [
        ("networks", "from pyro_vae.guides import Guide"),
        ("guides", "from pyro_vae import likelihoods"),
        ("priors", "import pyro_vae.guides.base"),
        ("models", "from pyro_vae import VAE"),
        ("objectives", "def f():\n    from pyro_vae.evaluation import log_weights"),
        ("evaluation", "if TYPE_CHECKING:\n    from pyro_vae.training.run_folder import Run"),
        ("cli", "from pyro_vae import VAE"),
        ("models", "from pyro_vae.data import ImageSet"),
        ("_core", "from pyro_vae.networks import MLP"),
    ],
)
def test_the_rule_detects_violations(user, source):
    (_, used), *_ = imported_folders(ast.parse(source))
    assert not allowed(user, used)


PROBE = """
import json, locale, logging, os, random, signal, sys, threading, warnings
import numpy, pyro, pyro.infer, pyro.optim, safetensors.torch, torch, torch.nn, torch.optim, tqdm, yaml

def state():
    generators = [random.getstate(), numpy.random.get_state(), torch.get_rng_state().tolist()]
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "torch's validation": torch.distributions.Distribution._validate_args,
        "pyro's validation": [pyro.poutine.util.is_validation_enabled(), pyro.validation_enabled.__module__,
                              pyro.infer.util.is_validation_enabled(), pyro.distributions.is_validation_enabled()],
        "pyro's settings": repr(pyro.settings.get()),
        "random generators": repr(generators),
        "seed": torch.initial_seed(),
        "parameter store": sorted(pyro.get_param_store()),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads(), threading.active_count()],
        "gradients": [torch.is_grad_enabled(), torch.is_anomaly_enabled(), torch.is_inference_mode_enabled()],
        "torch's switches": [torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
                             torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
                             torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
        "print options": [repr(torch._tensor_str.PRINT_OPTS), repr(numpy.get_printoptions())],
        "numpy's errors": numpy.geterr(),
        "warnings": [repr(f) for f in warnings.filters],
        "logging": [logging.root.level, len(logging.root.handlers), logging.getLogger("pyro").level],
        "environment": dict(os.environ),
        "signals": repr([signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]),
        "hooks": [sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__],
        "path": list(sys.path),
        "locale": locale.setlocale(locale.LC_ALL),
        "folder": os.getcwd(),
    }

torch.cuda.is_initialized()
before = state()
import pyro_vae
after = state()
assert pyro_vae.__file__.startswith(PARENT), pyro_vae.__file__
print(json.dumps({
    "changed": {k: [repr(before[k])[-400:], repr(after[k])[-400:]] for k in before if before[k] != after[k]},
    "cuda": torch.cuda.is_initialized(),
    "modules": sorted({name.split(".")[0] for name in sys.modules}),
}))
"""


@pytest.fixture(scope="module")
def probe():
    """Report the state of a fresh interpreter before and after importing the package."""
    import json

    code = PROBE.replace("PARENT", repr(str(PACKAGE.parent)))
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_changes_no_global_state(probe):
    assert probe["changed"] == {}


def test_importing_does_not_start_cuda(probe):
    assert not probe["cuda"]


@pytest.mark.parametrize("heavy", ["matplotlib", "torchvision", "sklearn", "jsonargparse", "tensorboard", "PIL"])
def test_importing_does_not_load(heavy, probe):
    assert heavy not in probe["modules"]


def test_every_public_name_exists():
    assert [name for name in pyro_vae.__all__ if not hasattr(pyro_vae, name)] == []
    assert len(set(pyro_vae.__all__)) == len(pyro_vae.__all__)


def test_the_command_line_limits_spinning_before_torch_is_loaded() -> None:
    code = "import os, sys, pyro_vae.cli; print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    for given, expected in (({}, "False 3000"), ({"GOMP_SPINCOUNT": "7"}, "False 7")):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env={**environment, **given}, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_names_of_the_package_are_found_where_they_are_defined() -> None:
    assert set(pyro_vae.__all__) <= set(dir(pyro_vae))
    for name in pyro_vae.__all__:
        assert getattr(pyro_vae, name) is not None
    with pytest.raises(AttributeError, match="module 'pyro_vae' has no attribute 'Fit'"):
        _ = pyro_vae.Fit
