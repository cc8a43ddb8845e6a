"""A new component is one file and one entry in its folder's ``__init__``, and nothing else.

A copy of the package gets a new component of each kind. The tests of the copy then cover it, and the command line finds
it by its name.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Folder, name and file of each component.
COMPONENTS = [
    (
        "guides",
        "LaplaceGuide",
        '''
        """The Laplace guide."""

        from pyro.distributions import Laplace, TorchDistribution
        from torch import Tensor

        from pyro_vae.guides.base import AmortizedGuide
        from pyro_vae.networks import MLP, NetworkFactory, Shape


        class LaplaceGuide(AmortizedGuide):
            """Independent Laplace distributions.

            Args:
                data_shape: shape of one datum.
                latent_dim: number of latent dimensions L.
                net: builds the encoder, ``net(data_shape, (2, latent_dim))``.

            Example:
                >>> LaplaceGuide((5,), 2).latent_dim
                2
            """

            has_marginals = True

            def __init__(self, data_shape: Shape, latent_dim: int, *, net: NetworkFactory = MLP) -> None:
                super().__init__(data_shape, latent_dim, param_shape=(2, latent_dim), net=net)

            def distribution(self, params: Tensor) -> TorchDistribution:
                loc, log_scale = params.unbind(-2)
                return Laplace(loc, log_scale.exp()).to_event(1)
        ''',
    ),
    (
        "priors",
        "LogisticPrior",
        '''
        """The logistic prior."""

        import torch
        from pyro.distributions import Logistic, TorchDistribution
        from torch import nn

        from pyro_vae.priors.base import Prior


        class LogisticPrior(Prior):
            """Independent logistic distributions with learned scales.

            Args:
                latent_dim: number of latent dimensions L.

            Example:
                >>> LogisticPrior(2)().event_shape
                torch.Size([2])
            """

            def __init__(self, latent_dim: int) -> None:
                super().__init__(latent_dim)
                self.log_scale = nn.Parameter(torch.zeros(latent_dim))

            def forward(self) -> TorchDistribution:
                return Logistic(torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)
        ''',
    ),
    (
        "likelihoods",
        "LogisticLikelihood",
        '''
        """The logistic likelihood."""

        from pyro.distributions import Logistic, TorchDistribution
        from torch import Tensor

        from pyro_vae.likelihoods.location_scale import LocationScaleLikelihood


        class LogisticLikelihood(LocationScaleLikelihood):
            """Independent logistic distributions.

            Shape:
                ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

            Example:
                >>> LogisticLikelihood(2, (5,)).latent_dim
                2
            """

            def family(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
                return Logistic(loc, scale)
        ''',
    ),
    (
        "networks",
        "ResidualMLP",
        '''
        """A residual multilayer perceptron."""

        from torch import Tensor, nn

        from pyro_vae.networks.base import Network, Shape


        class ResidualMLP(Network):
            """One residual layer between two linear ones.

            Args:
                in_shape: shape of one input.
                out_shape: shape of one output.
                width: width of the layers.

            Example:
                >>> ResidualMLP((3,), (2,)).out_size
                2
            """

            def __init__(self, in_shape: Shape, out_shape: Shape, *, width: int = 8) -> None:
                super().__init__(in_shape, out_shape)
                self.first, self.middle = nn.Linear(self.in_size, width), nn.Linear(width, width)
                self.last = nn.Linear(width, self.out_size)

            def transform(self, x: Tensor) -> Tensor:
                h = self.first(x.flatten(1))
                return self.last(h + self.middle(h).tanh())
        ''',
    ),
    (
        "objectives",
        "JackknifeIWAE",
        '''
        """Jackknife variational inference."""

        import math

        import torch

        from pyro_vae.objectives.per_datum import Estimate, PerDatumObjective, log_mean_exp
        from pyro_vae.objectives.programs import Programs


        class JackknifeIWAE(PerDatumObjective):
            """IWAE's bound without its bias of order 1/K, K L_K - (K - 1) mean_k L_{K-1}.

            Args:
                num_particles: number of particles K per datum, at least 2.

            References:
                Debiasing evidence approximations (Nowozin, 2018).
            """

            min_particles = 2

            def __init__(self, *, num_particles: int = 5) -> None:
                super().__init__(num_particles=num_particles)

            def _estimate(self, programs: Programs) -> Estimate:
                particles = programs.sample()
                log_weight, num = particles.log_weight, self.num_particles  # (K, B)
                diagonal = torch.eye(num, dtype=torch.bool, device=log_weight.device).unsqueeze(-1)
                others = log_weight.masked_fill(diagonal, -math.inf).logsumexp(1) - math.log(num - 1)  # (K, B)
                bound = num * log_mean_exp(log_weight) - (num - 1) * others.mean(0)
                return Estimate(bound, bound, particles)
        ''',
    ),
    (
        "evaluation",
        "weight_variance",
        '''
        """The variance of the log-weights."""

        from typing import Any

        from torch import Tensor

        from pyro_vae.evaluation.weights import log_weights


        def weight_variance(model: Any, guide: Any, data: Tensor, *, num_samples: int = 10) -> Tensor:
            """Variance of log p(x, z) - log q(z | x) over samples of q, per datum.

            Returns:
                ``(batch,)``, in squared nats.

            Example:
                >>> callable(weight_variance)
                True
            """
            return log_weights(model, guide, data, num_samples=num_samples).var(0)
        ''',
    ),
]

OPTIONS = ["--guide", "LaplaceGuide", "--guide.net", "ResidualMLP", "--prior", "LogisticPrior"]
OPTIONS += ["--likelihood", "LogisticLikelihood", "--objective", "JackknifeIWAE"]

USE = f"""
import torch
from pyro_vae import VAE
from pyro_vae.cli.train_options import parse_args
from pyro_vae.evaluation import weight_variance
from pyro_vae.experiments.experiment import to_yaml
from pyro_vae.guides import LaplaceGuide
from pyro_vae.likelihoods import LogisticLikelihood
from pyro_vae.priors import LogisticPrior

vae = VAE(LogisticPrior(2), LogisticLikelihood(2, (5,)), LaplaceGuide((5,), 2))
variance = weight_variance(vae.model, vae.guide, torch.randn(7, 5))
assert variance.shape == (7,) and (variance > 0).all()
print(to_yaml(parse_args({OPTIONS})))
"""


def add(package: Path, folder: str, name: str, source: str) -> None:
    """One file, and one entry in the folder's ``__init__``: the import of the name and the name in ``__all__``."""
    (package / folder / f"new_{name.lower()}.py").write_text(dedent(source).lstrip())
    init = package / folder / "__init__.py"
    entry = f'from pyro_vae.{folder}.new_{name.lower()} import {name}\n\n__all__ = [\n    "{name}",'
    init.write_text(init.read_text().replace("__all__ = [", entry, 1))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    for folder in ("pyro_vae", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for component in COMPONENTS:
        add(root / "pyro_vae", *component)
    return root


def run(root: Path, *command: str) -> str:
    """Standard output of Python in the copy."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_contract_tests_cover_new_components(copy: Path) -> None:
    names = " or ".join(name for _, name, _ in COMPONENTS)
    # Of the engines' tests: the objective with plain pieces, and the guide with the ELBO.
    selected = f"({names}) and not ELBO or LaplaceGuide-ELBO-1"
    files = ["tests/test_contracts.py", "tests/test_engines.py"]
    report = run(copy, "-m", "pytest", "-v", "-n", "0", "-p", "no:cacheprovider", *files, "-k", selected)
    passed = [line for line in report.splitlines() if "PASSED" in line]
    for folder, name, _ in COMPONENTS:
        tests = {line.split("[")[0] for line in passed if name in line}
        assert len(tests) >= {"guides": 15, "evaluation": 1, "objectives": 2}.get(folder, 10), f"{name}: {tests}"


def test_new_components_are_available_by_name(copy: Path) -> None:
    config = run(copy, "-c", USE)
    for name in OPTIONS[1::2]:
        assert f".{name}\n" in config
