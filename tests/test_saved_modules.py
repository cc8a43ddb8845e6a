"""Models in files: the same model comes back, or one line says why not, and nothing in a file is executed."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_vae import VAE, AutoregressiveModel, ConditionalVAE, HierarchicalVAE, SemiSupervisedVAE, fit, log_weights, zoo
from pyro_vae._core.checks import arguments_of
from pyro_vae._core.saved_modules import SavedModule
from pyro_vae._core.weights import read_weights, write_weights
from pyro_vae.experiments.experiment import train
from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide, SemiAmortizedGuide
from pyro_vae.likelihoods import BernoulliLikelihood, NormalLikelihood
from pyro_vae.models import BernoulliComponents, BottomUpGuide, MixtureModel, StackedVAE
from pyro_vae.models.build import build_conditional
from pyro_vae.networks import MLP, MaskedMLP, with_context
from pyro_vae.priors import CategoricalPrior, ConditionalPrior, StandardNormalPrior, VampPrior
from pyro_vae.training import RunFolder, load_pair, save_pair
from tests import test_contracts as contracts

small, wide = partial(MLP, hidden=(6,)), with_context(partial(MLP, hidden=(6,)), 3)


class Pair(nn.Module, SavedModule):
    """Holds a module of any kind."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part


class Own(MLP):
    """A network of a user, in a module that can be imported."""

    def __init__(self, in_shape, out_shape, **options) -> None:
        super().__init__(in_shape, out_shape, **options)
        self.register_buffer("order", torch.randperm(2), persistent=False)
        self._settings, self._scale = {"powers": [1, 2]}, torch.ones(2)
        self._rates = {"first": 1 / in_shape[0], "second": 2 / in_shape[0]}


own = partial(Own, hidden=(3,))


def vae_of(**options) -> VAE:
    guide = DiagonalNormalGuide((4,), 2, net=small)
    prior = VampPrior(guide, num_components=3) if options.pop("vamp", False) else StandardNormalPrior(2)
    return VAE(prior, BernoulliLikelihood(2, (4,), net=options.pop("net", small)), guide, **options)


def encoder(size: int, latent_dim: int, net=small) -> DiagonalNormalGuide:
    return DiagonalNormalGuide((size,), latent_dim, net=net)


def layers() -> BottomUpGuide:
    return BottomUpGuide([encoder(4, 3), encoder(3, 2)])


def semi_supervised(size: int, likelihood=BernoulliLikelihood) -> SemiSupervisedVAE:
    pieces = likelihood(2, (size,), net=wide), encoder(size, 2, wide), CategoricalGuide((size,), 3, net=small)
    return SemiSupervisedVAE(StandardNormalPrior(2), *pieces, CategoricalPrior(3), classification_weight=0.5)


def copied(module, tmp_path: Path, **options):
    module.save(tmp_path / "m.safetensors")
    return type(module).load(tmp_path / "m.safetensors", **options)


@contracts.each(contracts.networks, contracts.priors, contracts.likelihoods, contracts.guides)
def test_every_module_comes_back(cls, tmp_path: Path) -> None:
    module = contracts.build(cls)
    if getattr(module, "needs_model", False):
        module.attach(None)  # of the test, not of a model
    holder = Held(module)
    for parameter in module.parameters():
        parameter.data.normal_()
    state = torch.get_rng_state()
    restored = copied(holder, tmp_path, trust=["tests"])
    assert torch.equal(torch.get_rng_state(), state)
    assert str(restored) == str(holder.eval())
    before, after = holder.state_dict(), restored.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)


class Held(Pair, contracts.pyro_vae._core.checks.CheckedArguments):
    """:class:`Pair` whose arguments are kept."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trained_model_gives_the_same_numbers(dtype, tmp_path: Path) -> None:
    vae, x = vae_of(vamp=True, missing=True).to(dtype), torch.rand(20, 4, dtype=dtype).round()
    fit(vae.model, vae.guide, x, epochs=2, batch_size=10, engine="eager")
    restored = copied(vae, tmp_path)
    assert restored.missing
    assert restored.prior.guide is restored.guide
    assert not restored.training
    z = vae.encode(x).mean
    assert torch.equal(restored.encode(x).mean, z)
    assert torch.equal(restored.prior().log_prob(z), vae.prior().log_prob(z))
    assert torch.equal(restored.decode(z).log_prob(x), vae.decode(z).log_prob(x))
    fit(restored.model, restored.guide, x, epochs=1, batch_size=10, engine="eager")
    assert not torch.equal(restored.encode(x).mean, z)


@pytest.mark.parametrize(
    "model",
    [
        lambda path: AutoregressiveModel((4,), net=partial(MaskedMLP, hidden=(5,))),
        lambda path: MixtureModel(BernoulliComponents((4,), 3)),
        lambda path: HierarchicalVAE(StandardNormalPrior(2), [encoder(2, 3)], BernoulliLikelihood(3, (4,)), layers()),
        lambda path: build_conditional((4,), 2, 3, ConditionalPrior, BernoulliLikelihood, DiagonalNormalGuide),
        lambda path: semi_supervised(4),
        lambda path: StackedVAE(vae_of(), semi_supervised(1, NormalLikelihood), torch.tensor([1])),
        lambda path: train(epochs=1, device="cpu", latent_dim=2, run=RunFolder.create(path / "run")).vae,
        lambda path: zoo.load("mnist-vae-50"),  # whose networks the command line's parser builds
    ],
    ids=["autoregressive", "mixture", "hierarchical", "conditional", "M2", "M1+M2", "trained by options", "zoo"],
)
def test_other_models_come_back(model, tmp_path: Path) -> None:
    module = model(tmp_path)
    restored = copied(module, tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), restored.state_dict().values(), strict=True)
    )


def test_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    vae = vae_of()
    vae.model.requires_grad_(False)
    restored = copied(vae, tmp_path)
    assert not any(p.requires_grad for p in restored.model.parameters())
    assert all(p.requires_grad for p in restored.guide.parameters())


def test_a_network_of_the_user_must_be_trusted(tmp_path: Path) -> None:
    vae_of(net=own).save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"^load: the file must name only classes of pyro_vae, got 'tests\.test_saved"):
        VAE.load(tmp_path / "m")
    assert isinstance(VAE.load(tmp_path / "m", trust=["tests"]).likelihood.net, Own)


def _in_units() -> VAE:
    vae = VAE(StandardNormalPrior(2), NormalLikelihood(2, (4,), net=small), DiagonalNormalGuide((4,), 2, net=small))
    vae.likelihood.set_unit(torch.arange(1.0, 5.0))
    return vae


def _shifted() -> VAE:
    vae = vae_of()
    vae.prior.loc += 1
    return vae


@pytest.mark.parametrize("vae", [_in_units, _shifted, *[partial(vae_of, net=own)] * 6])
def test_buffers_that_are_set_later_or_drawn_at_random_come_back(vae, tmp_path: Path) -> None:
    vae = vae()
    restored = copied(vae, tmp_path, trust=["tests"])
    before, after = dict(vae.named_buffers()), dict(restored.named_buffers())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    likelihood = NormalLikelihood(np.int64(2), (np.int64(4),), net=small, scale=np.float32(0.1))
    vae = VAE(StandardNormalPrior(2), likelihood, DiagonalNormalGuide(torch.Size([4]), 2, net=small))
    assert copied(vae, tmp_path).likelihood.fixed_scale == float(np.float32(0.1))


def test_a_model_loads_in_any_context(tmp_path: Path) -> None:
    vae = vae_of()
    with torch.device("meta"), torch.inference_mode():
        restored = copied(vae, tmp_path)
    assert restored.encode(torch.ones(4)).mean.requires_grad
    assert {tensor.device.type for tensor in (*restored.parameters(), *restored.buffers())} == {"cpu"}


def test_a_pickle_needs_no_arguments_that_have_no_name() -> None:
    for net in (small, lambda a, b: MLP(a, b)):
        vae = copy.deepcopy(pickle.loads(pickle.dumps(vae_of(net=net))))  # noqa: S301
        assert (arguments_of(vae.likelihood) is None) == (net is not small)


def _set(name: str, value: object) -> Callable[[], VAE]:
    def changed() -> VAE:
        vae = vae_of(net=own)
        holder, _, key = name.rpartition(".")
        setattr(vae.get_submodule(holder), key, value)
        return vae

    return changed


def _hooked() -> VAE:
    vae = vae_of()
    vae.likelihood.net.register_forward_hook(lambda module, args, output: 2 * output)
    return vae


def _tied() -> VAE:
    vae = vae_of()
    vae.guide.net.layers[0].bias = vae.likelihood.net.layers[0].bias
    return vae


def _of_one_number() -> VAE:
    vae = vae_of(net=own)
    rates = vae.likelihood.net._rates
    rates["second"] = rates["first"]
    return vae


def _untied() -> VAE:
    vae = vae_of(vamp=True)
    vae.guide = copy.deepcopy(vae.guide)
    return vae


def _in_two_dtypes() -> VAE:
    vae = vae_of()
    vae.likelihood.float()
    return vae


def _without_another_model() -> VAE:
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (4,), net=small), SemiAmortizedGuide((4,), 2))
    VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (4,), net=small), vae.guide)
    return vae


@pytest.mark.parametrize(
    ("vae", "message"),
    [
        (
            lambda: vae_of(net=lambda a, b: MLP(a, b)),
            r"^save: .* classes and functions that can be imported, got .*lambda",
        ),
        (lambda: vae_of(net=type("Local", (MLP,), {"__module__": "__main__"})), r"^save: .* got __main__\.Local\. Use"),
        (_set("guide.beta", 3.0), r"^save: attributes must be those of the construction, got another guide\.beta\."),
        (_set("likelihood.net._settings", {"powers": [1, 3]}), r"another model\.likelihood\.net\._settings\.powers\.1"),
        (_set("likelihood.net._scale", torch.zeros(2, dtype=torch.float64)), r"another model\.likelihood\.net\._scale"),
        (_set("likelihood.net.nets", [nn.Linear(2, 2)]), r"another model\.likelihood\.net\.nets"),
        (_hooked, r"another model\.likelihood\.net\._forward_hooks"),
        (_tied, r"another guide\.net\.layers\.0\.bias"),
        (_of_one_number, r"another model\.likelihood\.net\._rates\.second"),
        (_untied, r"another guide\."),
        (_in_two_dtypes, r"another guide\.net\.layers\.0\.weight"),
        (_without_another_model, r"another guide\._log_joint"),
        (lambda: vae_of().to("meta"), r"^save: tensors must hold values, got device meta"),
    ],
)
def test_what_cannot_be_constructed_again_is_refused(vae, message, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        vae().save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_another_class_is_named_and_files_are_kept(tmp_path: Path) -> None:
    vae = vae_of()
    vae.save(tmp_path / "m")
    for cls in (HierarchicalVAE, ConditionalVAE, SemiSupervisedVAE):
        with pytest.raises(ValueError, match=rf"must hold a {cls.__name__}, got VAE\.$"):
            cls.load(tmp_path / "m")
    with pytest.raises(FileExistsError):
        vae.save(tmp_path / "m")
    vae.save(tmp_path / "m", overwrite=True)
    with pytest.raises(FileNotFoundError):
        VAE.load(tmp_path / "none")


def test_a_damaged_byte_is_found_or_harmless(tmp_path: Path) -> None:
    vae = vae_of()
    vae.save(tmp_path / "m")
    content, weights, harmless = (tmp_path / "m").read_bytes(), vae.state_dict(), 0
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 1 + position % 255
        (tmp_path / "m").write_bytes(damaged)
        with suppress(ValueError):
            restored = VAE.load(tmp_path / "m").state_dict()
            harmless += 1  # a space, or the name of the checksum
            assert all(torch.equal(weights[name], restored[name]) for name in weights)
    assert harmless < 5


@pytest.mark.parametrize(
    "module",
    [
        {"class": "os.system", "args": ["touch pwned"], "options": {}},
        {"class": "pyro_vae._core.files.remove_abandoned", "args": ["/"], "options": {}},
        {"class": "pyro_vae._core.files.os", "args": [], "options": {}},
        {"class": "pyro_vae.cli.main.main", "args": [], "options": {}},
        {"partial": "subprocess.run", "args": [], "options": {}},
        {"class": "torch.nn.modules.module.Tensor", "args": [], "options": {}},
        {"class": "pyro_vae.models.VAE", "args": [], "options": {}},
        {"class": "pyro_vae.models.VAE", "args": [{"same": 7}], "options": {}},
        {"class": "pyro_vae.__main__.main", "args": [], "options": {}},
        {"class": "pyro_vae.networks.conditioned.build_network", "args": [], "options": {}},
        {"tensor": "9"},
        {"dtype": "hub"},
        {},
        [],
        3,
    ],
)
def test_a_forged_construction_runs_nothing(module, tmp_path: Path) -> None:
    vae = vae_of()
    text = json.dumps({"module": module, "frozen": []})
    write_weights(tmp_path / "m", vae.state_dict(), {"format": "1", "construction": text})
    with pytest.raises(ValueError, match=r"^load: "):
        VAE.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("module", "rule"),
    [
        ({"class": "tests.test_saved_modules.layers", "args": [], "options": {}}, "must construct modules only"),
        ({"name": "tests.test_saved_modules.suppress"}, "the package itself defines"),
        ({"class": "tests.test_saved_modules.VAE", "args": [], "options": {}}, "the package itself defines"),
    ],
)
def test_trust_in_a_package_is_in_its_own_names(module, rule, tmp_path: Path) -> None:
    write_weights(tmp_path / "m", {}, {"format": "1", "construction": json.dumps({"module": module, "frozen": []})})
    with pytest.raises(ValueError, match=rule):
        VAE.load(tmp_path / "m", trust=["tests"])
    with pytest.raises(ValueError, match="trust must be an iterable"):
        VAE.load(tmp_path / "m", trust="tests")


def test_weights_of_a_run_are_told_apart(tmp_path: Path) -> None:
    write_weights(tmp_path / "m", vae_of().state_dict(), {})
    assert "construction" not in read_weights(tmp_path / "m")[1]
    with pytest.raises(ValueError, match="weights without a construction"):
        VAE.load(tmp_path / "m")


def pair_of() -> tuple:
    """A pair with parameters in a module, in the parameter store, and in a guide that is built at its first call."""
    decoder = nn.Linear(2, 3)

    def model(x):
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    return model, AutoNormal(model)


def weights_of(model, guide, x) -> torch.Tensor:
    torch.manual_seed(1)
    return log_weights(model, guide, x, num_samples=3)


def test_a_pair_of_the_user_comes_back(tmp_path: Path) -> None:
    (model, guide), x = pair_of(), torch.randn(20, 3)
    fit(model, guide, x, epochs=3, batch_size=20)
    expected = weights_of(model, guide, x)
    scale = pyro.param("scale").item()
    save_pair(tmp_path / "pair", model, guide, x)
    pyro.clear_param_store()
    restored = load_pair(tmp_path / "pair", pair_of, x)
    assert pyro.param("scale").item() == scale != 0.5
    assert torch.equal(weights_of(*restored, x), expected)
    with pytest.raises(FileExistsError):
        save_pair(tmp_path / "pair", model, guide, x)
    vae = vae_of()
    rule = r"^fit: the saved weights must be those of this model and guide"
    with pytest.raises(ValueError, match=rule):
        load_pair(tmp_path / "pair", lambda: (vae.model, vae.guide), x.new_zeros(2, 4))
    (tmp_path / "pair").write_bytes(b"0" * 30)
    with pytest.raises(ValueError, match=r"^load_pair: .* must be a whole file of weights, got another"):
        load_pair(tmp_path / "pair", pair_of, x)


def test_a_pair_comes_back_from_a_run(tmp_path: Path) -> None:
    (model, guide), x = pair_of(), torch.randn(20, 3)
    fit(model, guide, x, epochs=3, batch_size=20, run=tmp_path / "run")
    expected = weights_of(model, guide, x)
    pyro.clear_param_store()
    restored = load_pair(tmp_path / "run" / "weights.safetensors", pair_of, x)
    assert torch.equal(weights_of(*restored, x), expected)
