"""With Pyro's global parameter store, several VAEs in one process must each train their own parameters."""

import copy
import gc
import warnings

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from pyro_vae import VAE
from pyro_vae._core.param_store import no_registration, register
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormalPrior

DATA_SHAPE = (2, 3)


def net(in_shape, out_shape):
    return MLP(in_shape, out_shape, hidden=(8,))


def build():
    likelihood = BernoulliLikelihood(2, DATA_SHAPE, net=net)
    return VAE(StandardNormalPrior(2), likelihood, DiagonalNormalGuide(DATA_SHAPE, 2, net=net))


@pytest.fixture
def x():
    """Two patterns, ten data each: log 2 per pixel without information about the pattern, 0 with it."""
    pattern = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    return torch.stack([pattern, 1 - pattern]).repeat_interleave(10, 0)  # (20, 2, 3)


def train(vae, x, steps=60):
    """First and last loss, nats per datum."""
    svi = SVI(vae.model, vae.guide, Adam({"lr": 0.03}), Trace_ELBO())
    losses = [svi.step(x) / len(x) for _ in range(steps)]
    return losses[0], sum(losses[-5:]) / 5


def snapshot(module):
    return [p.detach().clone() for p in module.parameters()]


def all_changed(module, before):
    return all(not torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))


def none_changed(module, before):
    return all(torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))


def check_trains(vae, x, *, others=()):
    """SVI lowers the loss by more than a nat, changes every parameter of ``vae`` and none of ``others``."""
    initial, others_initial = snapshot(vae), [snapshot(other) for other in others]
    first, last = train(vae, x)
    assert last < first - 1.0
    assert all_changed(vae, initial)
    assert all(none_changed(other, before) for other, before in zip(others, others_initial, strict=True))


def test_two_vaes_train_one_after_the_other(x):
    one, two = build(), build()
    check_trains(one, x, others=[two])
    check_trains(two, x, others=[one])


def test_two_vaes_train_in_turns(x):
    vaes = [build(), build()]
    before = [snapshot(vae) for vae in vaes]
    svis = [SVI(vae.model, vae.guide, Adam({"lr": 0.03}), Trace_ELBO()) for vae in vaes]
    losses = [[svi.step(x) / len(x) for svi in svis] for _ in range(60)]
    assert all(last < first - 1.0 for first, last in zip(losses[0], losses[-1], strict=True))
    assert all(all_changed(vae, b) for vae, b in zip(vaes, before, strict=True))


def test_a_deep_copy_made_before_training_trains(x):
    vae = build()
    twin = copy.deepcopy(vae)
    check_trains(vae, x, others=[twin])
    check_trains(twin, x, others=[vae])


def test_a_deep_copy_made_after_training_trains_independently(x):
    vae = build()
    train(vae, x, steps=3)
    twin = copy.deepcopy(vae)
    check_trains(twin, x, others=[vae])
    check_trains(vae, x, others=[twin])


def test_a_swapped_guide_trains_and_the_old_one_does_not_change(x):
    vae = build()
    train(vae, x, steps=3)
    swapped = vae.with_guide(DiagonalNormalGuide(DATA_SHAPE, 2, net=net))
    old_guide, model = snapshot(vae.guide), snapshot(vae.model)
    check_trains(swapped, x)
    assert none_changed(vae.guide, old_guide)
    assert all_changed(vae.model, model)  # the model is one and the same


def test_the_first_vae_trains_after_a_swap(x):
    vae = build()
    swapped = vae.with_guide(DiagonalNormalGuide(DATA_SHAPE, 2, net=net))
    train(swapped, x, steps=3)
    check_trains(vae, x, others=[swapped.guide])


def test_only_the_guide_trains_if_the_model_is_frozen(x):
    vae = build()
    vae.model.requires_grad_(False)
    before = snapshot(vae.guide)
    model = snapshot(vae.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(vae, x, steps=3)
    assert all_changed(vae.guide, before)
    assert none_changed(vae.model, model)


def test_frozen_parameters_are_not_registered(x):
    vae = build()
    frozen = next(vae.guide.parameters()).requires_grad_(False)
    train(vae, x, steps=1)
    assert len(pyro.get_param_store()) == len(list(vae.parameters())) - 1
    assert all(value is not frozen for _, value in pyro.get_param_store().named_parameters())


def test_parameters_thawed_later_train(x):
    vae = build()
    vae.model.requires_grad_(False)
    train(vae, x, steps=2)
    vae.model.requires_grad_(True)
    check_trains(vae, x)


def test_every_parameter_is_in_the_store_once_under_a_unique_name(x):
    vaes = [build(), build()]
    for vae in vaes:
        train(vae, x, steps=2)
    stored = dict(pyro.get_param_store().named_parameters())
    expected = [p for vae in vaes for p in vae.parameters()]
    assert len(stored) == len(expected)
    assert {id(p) for p in stored.values()} == {id(p) for p in expected}


def test_the_name_contains_class_and_parameter():
    guide = DiagonalNormalGuide(DATA_SHAPE, 2, net=net)
    register(guide)
    names = [name.split("$$$") for name in pyro.get_param_store().keys()]  # noqa: SIM118
    assert {name for name, _ in names} == {names[0][0]}
    assert names[0][0].startswith("DiagonalNormalGuide-")
    assert [key for _, key in names] == [key for key, _ in guide.named_parameters()]


def test_registering_twice_preserves_the_name():
    guide = DiagonalNormalGuide(DATA_SHAPE, 2, net=net)
    register(guide)
    names = set(pyro.get_param_store())
    register(guide)
    assert set(pyro.get_param_store()) == names


def test_training_continues_after_the_store_is_cleared(x):
    vae = build()
    train(vae, x, steps=2)
    pyro.clear_param_store()
    check_trains(vae, x)


def test_no_registration_leaves_the_store_empty(x):
    vae = build()
    with no_registration():
        loss = Trace_ELBO()(vae.model, vae.guide)(x)
        loss.backward()
    assert len(pyro.get_param_store()) == 0
    assert all(p.grad is not None for p in vae.parameters())


def test_no_registration_ends_with_its_block():
    guide = DiagonalNormalGuide(DATA_SHAPE, 2, net=net)
    with no_registration():
        with no_registration():
            register(guide)
        register(guide)  # the outer block still holds
        assert len(pyro.get_param_store()) == 0
    register(guide)
    assert len(pyro.get_param_store()) == len(list(guide.parameters()))


def test_no_registration_ends_with_an_error():
    guide = DiagonalNormalGuide(DATA_SHAPE, 2, net=net)
    with pytest.raises(RuntimeError, match="stop"), no_registration():
        raise RuntimeError("stop")
    register(guide)
    assert len(pyro.get_param_store()) == len(list(guide.parameters()))


def test_a_collected_vae_does_not_clash_with_a_new_one(x):
    train(build(), x, steps=3)
    gc.collect()
    check_trains(build(), x)


def test_names_outlive_their_modules():
    """Names must not be memory addresses, which are reused: a new module would get the tensors of a deleted one."""
    for _ in range(50):
        guide = DiagonalNormalGuide(DATA_SHAPE, 2, net=net)
        register(guide)
        stored = {id(p) for _, p in pyro.get_param_store().named_parameters()}
        assert stored >= {id(p) for p in guide.parameters()}
        del guide
        gc.collect(0)
    assert len(set(pyro.get_param_store())) == 50 * 4


def test_replaced_parameters_train(x):
    vae = build()
    train(vae, x, steps=2)
    vae.load_state_dict({k: v.clone() for k, v in vae.state_dict().items()}, assign=True)
    before = snapshot(vae)
    train(vae, x, steps=2)
    assert all_changed(vae, before)
