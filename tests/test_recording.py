"""A recording equals the function or raises, and does not change the state of the process."""

from __future__ import annotations

import random
import sys
import warnings
from contextlib import nullcontext
from functools import partial
from itertools import count

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae._core import recording
from pyro_vae._core.precision import TOLERANCE, NetworkPrecision
from pyro_vae._core.recording import Recorded, RecordingError, recordable
from tests.linear_gaussian import LinearGaussian

Replayed = partial(Recorded, compiled=False)


class Draws:
    """Functions of a tensor in (0, 1) that draw random numbers."""

    normal = staticmethod(lambda x: x + torch.randn_like(x))
    uniform = staticmethod(lambda x: x * torch.rand(x.shape))
    bernoulli = staticmethod(torch.bernoulli)
    in_place = staticmethod(lambda x: torch.empty_like(x).bernoulli_(0.3) + torch.empty_like(x).exponential_())
    dropout = staticmethod(lambda x: nn.functional.dropout(x, 0.3))
    multinomial = staticmethod(lambda x: torch.multinomial(x, 2))
    categorical = staticmethod(lambda x: dist.Categorical(x).sample())
    gamma = staticmethod(lambda x: dist.Gamma(x + 0.1, x + 1).rsample())
    dirichlet = staticmethod(lambda x: dist.Dirichlet(x + 0.1).rsample())
    poisson = staticmethod(lambda x: dist.Poisson(x + 1).sample())
    permutation = staticmethod(lambda x: x[torch.randperm(len(x))])


DRAWS = {name: value.__func__ for name, value in vars(Draws).items() if isinstance(value, staticmethod)}


def values(result) -> list[torch.Tensor]:
    return torch.utils._pytree.tree_leaves(result)


def seeded(function, *args) -> list[torch.Tensor]:
    """The result from a seed, and the next random number."""
    torch.manual_seed(3)
    return [*values(function(*args)), torch.rand(())]


def same(one, two) -> bool:
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# ---------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_random_numbers_equal_the_function_s(draw) -> None:
    replayed = Replayed(draw, [])
    replayed.prepare(torch.rand(4, 3))
    x = torch.rand(4, 3)
    assert same(seeded(replayed, x), seeded(draw, x))
    assert not same(values(replayed(x)), values(replayed(x))), "every replay draws anew"


@pytest.mark.slow
def test_compiled_random_numbers_equal_the_function_s() -> None:
    def everything(x):
        return {name: draw(x) for name, draw in DRAWS.items()}

    compiled = Recorded(everything, [])
    compiled.prepare(torch.rand(4, 3))
    x = torch.rand(4, 3)
    for result, expected in zip(seeded(compiled, x), seeded(everything, x), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-15)


def test_current_state_is_read_and_gradients_are_recorded() -> None:
    weight, offset = nn.Parameter(torch.rand(3)), torch.rand(3)

    def function(x):
        loss = ((x * weight).exp() + offset).sum()
        return {"loss": loss, "gradient": torch.autograd.grad(loss, [weight])[0]}

    replayed, x = Replayed(function, [weight, offset]), torch.rand(5, 3)
    for _ in range(3):
        with torch.no_grad():
            weight.add_(torch.rand(3)), offset.add_(torch.rand(3))
        assert same(values(replayed(x)), values(function(x)))
    assert not any(t.requires_grad for t in values(replayed(x)))


def test_one_recording_for_each_kind_of_arguments() -> None:
    calls = []

    def function(x, power=1):
        calls.append(x.shape)
        return x.sum() ** power / len(x)

    replayed = Replayed(function, [])
    for x, power in ((torch.rand(4), 1), (torch.rand(7), 1), (torch.rand(4), 2), (torch.rand(4).float(), 1)):
        before = len(calls)
        replayed.prepare(x, power)
        recorded = len(calls)
        assert recorded > before
        for _ in range(2):
            y = torch.rand(len(x)).to(x)
            assert torch.equal(replayed(y, power), y.sum() ** power / len(y))
        assert len(calls) == recorded


def test_only_the_first_recording_is_compiled(monkeypatch) -> None:
    compiled = []
    monkeypatch.setattr(recording, "_compile", lambda graph, inputs, **_: compiled.append(len(inputs[0])) or graph)
    doubled = Recorded(lambda x: 2 * x, [])
    for n in (4, 7, 4, 2):
        assert torch.equal(doubled(torch.ones(n)), torch.full((n,), 2.0))
    assert compiled == [4]


def test_batch_statistics_advance_as_in_eager_mode() -> None:
    norms = [nn.BatchNorm1d(3), nn.BatchNorm1d(3)]
    replayed = Replayed(norms[0], list(norms[0].buffers()) + list(norms[0].parameters()))
    replayed.prepare(torch.randn(4, 3))
    assert same(list(norms[0].buffers()), list(norms[1].buffers())), "preparing is no step"
    for _ in range(3):
        x = torch.randn(4, 3)
        assert same([replayed(x), *norms[0].buffers()], [norms[1](x), *norms[1].buffers()])


# ---------------------------------------------------------------- errors

WEIGHT, SEEDS = torch.ones(3), count()
LOOKS = {
    "item": lambda x: x * x.sum().item(),
    "float": lambda x: x * float(x[0]),
    "branch": lambda x: x if x.sum() > 0 else -x,
    "list": lambda x: x * x.tolist()[0],
    "numpy": lambda x: x * torch.as_tensor(x.numpy()),
    "array": lambda x: x * np.asarray(x)[0],
    "tensor of a list": lambda x: torch.tensor([[x[0], 1.0]]).sum() * x,
    "item of the state": lambda x: x * WEIGHT.sum().item(),
    "branch on the state": lambda x: x * 2 if WEIGHT[0] > 0.5 else x,
    "list of the state": lambda x: x * WEIGHT.tolist()[0],
    "numpy of the state": lambda x: x * torch.as_tensor(WEIGHT.numpy()),
    "shape by value": lambda x: x[: int(x[0] + 1)],
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_program_that_reads_a_value_raises_with_the_line(look) -> None:
    with pytest.raises(RecordingError) as error:
        Replayed(look, [WEIGHT]).prepare(torch.rand(3))
    line = look.__code__.co_firstlineno
    assert str(error.value) == f"the program reads a tensor's value in Python (test_recording.py:{line})"


class _Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.tensor([random.random() for _ in range(3)]),  # one number agrees by chance once in 300 runs
        lambda x: x + torch.from_numpy(np.random.rand(3)),  # noqa: NPY002
        _Counter(),
        lambda x: x * torch.rand(3, generator=torch.Generator().manual_seed(next(SEEDS))),
    ],
    ids=["python", "numpy", "counter", "generator"],
)
def test_random_numbers_of_other_libraries_raise(function) -> None:
    with pytest.raises(RecordingError, match=r"^two runs at one state of torch's generators differ; draw with torch"):
        Replayed(function, []).prepare(torch.rand(3))


def test_a_reseeded_private_generator_cannot_be_recorded() -> None:
    recorded = Replayed(lambda x: x * torch.rand(3, generator=torch.Generator().manual_seed(1)), [])
    with pytest.raises(RecordingError, match=r"^the recording does not reproduce the program's numbers$"):
        recorded.prepare(torch.rand(3))


def test_arguments_must_be_tensors_or_hashable() -> None:
    with pytest.raises(RecordingError, match=r"^an argument of type list is neither tensor nor number$"):
        Replayed(lambda x, y: x, [])(torch.ones(3), [1, 2])


def test_arguments_that_always_change_raise_eventually(monkeypatch) -> None:
    monkeypatch.setattr(recording, "_MAX_RECORDINGS", 3)
    scaled = Replayed(lambda x, factor: factor * x, [])
    for factor in (1.0, 2.0, 3.0):
        assert torch.equal(scaled(torch.ones(2), factor), torch.full((2,), factor))
    with pytest.raises(
        RecordingError, match=r"^it was called with more than 3 kinds of arguments; pass numbers as tens"
    ):
        scaled(torch.ones(2), 4.0)
    assert torch.equal(scaled(torch.ones(2), 2.0), torch.full((2,), 2.0))


def test_a_recorder_error_is_one_line_with_the_source_line() -> None:
    def function(x):
        if torch.overrides._get_current_function_mode_stack():  # at the recording, not at the first run
            raise KeyError("several\nlines")
        return x

    with pytest.raises(RecordingError) as error:
        Replayed(function, []).prepare(torch.ones(3))
    assert str(error.value).startswith("KeyError: ")
    assert str(error.value).endswith(f"(test_recording.py:{function.__code__.co_firstlineno + 2})")
    assert "\n" not in str(error.value)


def _off_by(graph, inputs, *, error: float, **options):
    return lambda *args: [value * (1 + error) for value in graph(*args)]


@pytest.mark.parametrize(("error", "refused"), [(1e-2, True), (float("nan"), True), (1e-9, False)])
def test_a_recording_with_other_numbers_raises(monkeypatch, error: float, refused: bool) -> None:
    monkeypatch.setattr(recording, "_compile", partial(_off_by, error=error))
    wrong = Recorded(lambda x: (x.sum(), x.exp()), [])
    if refused:
        with pytest.raises(RecordingError, match="does not reproduce the program's numbers"):
            wrong(torch.ones(3))
    else:
        assert torch.allclose(wrong(torch.ones(3))[1], torch.ones(3).exp())


@pytest.mark.parametrize(("times", "refused"), [(4.0, False), (20.0, True)])
def test_a_recording_may_differ_as_much_as_the_program_does_from_float32(monkeypatch, times, refused) -> None:
    layer, x = nn.Linear(50, 1).float(), 1 + torch.rand(20, 50, dtype=torch.float32) / 20

    def sharp(x: torch.Tensor) -> torch.Tensor:  # importance weights, say
        with NetworkPrecision("bf16"):
            return (100 * layer(x)).softmax(0)

    with torch.no_grad():
        rounding = float((sharp(x) - (100 * layer(x)).softmax(0)).norm() / sharp(x).norm())
    assert rounding > 2 * TOLERANCE["bf16"]
    monkeypatch.setattr(recording, "_compile", partial(_off_by, error=times * rounding))
    with torch.no_grad(), pytest.raises(RecordingError) if refused else nullcontext():
        Recorded(sharp, [], tolerance=TOLERANCE["bf16"])(x)
    with torch.no_grad(), pytest.raises(RecordingError):
        Recorded(sharp, [])(x)  # which is not said to multiply in bfloat16
    generator = np.random.default_rng(0)
    with torch.no_grad(), pytest.raises(RecordingError, match="two runs"):
        Recorded(lambda x: sharp(x) * generator.normal(), [], tolerance=TOLERANCE["bf16"])(x)


def test_a_recording_in_bfloat16_follows_a_change_that_is_smaller_than_rounding() -> None:
    layer, x = nn.Linear(50, 1).float(), 1 + torch.rand(20, 50, dtype=torch.float32) / 20
    scale = [100.0]

    def sharp(x: torch.Tensor) -> torch.Tensor:
        with NetworkPrecision("bf16"):
            logits = layer(x) * (1 + 0 * torch.randn_like(x[:, :1]))
        return (scale[0] * logits).softmax(0)

    for compiled in (False, True):
        recorded = Recorded(sharp, list(layer.parameters()), tolerance=TOLERANCE["bf16"], compiled=compiled)
        with torch.no_grad():
            recorded(x)
            for _ in range(20):  # by chance a program rounds much less than its recording
                layer.reset_parameters()
                assert recorded.follows(x)
            scale[0] = 100.5
            assert not recorded.follows(x)
            scale[0] = 100.0
            assert recorded.follows(x)


def test_a_program_with_conversions_of_its_own_to_bfloat16_is_followed() -> None:
    weight, x = torch.rand(50, 3, dtype=torch.float32), torch.rand(20, 50, dtype=torch.float32)
    scale = [1.0]

    def own(x: torch.Tensor) -> torch.Tensor:
        return scale[0] * (x.bfloat16() @ weight.bfloat16()).float().exp()

    recorded = Recorded(own, [weight], tolerance=TOLERANCE["bf16"], compiled=False)
    recorded(x)
    weight.uniform_(0.5, 1.0)
    assert recorded.follows(x)
    scale[0] = 1.5
    assert not recorded.follows(x)


def test_a_recording_that_writes_another_state_raises(monkeypatch) -> None:
    weight = torch.ones(2)

    def compile_wrongly(graph, inputs, **options):
        return lambda *args: [graph(*args), args[0].add_(1e-2)][0]

    monkeypatch.setattr(recording, "_compile", compile_wrongly)
    with pytest.raises(RecordingError, match="does not reproduce the program's numbers"):
        Recorded(lambda x: weight.add_(x).sum(), [weight])(torch.ones(2))
    assert torch.equal(weight, torch.ones(2))


def test_nonfinite_numbers_of_the_program_are_recorded() -> None:
    replayed = Replayed(lambda x: (x.log(), (x - x.log()).sum()), [])
    assert replayed(torch.zeros(3))[1] == torch.inf
    assert torch.equal(replayed(torch.ones(3))[0], torch.zeros(3))


# ---------------------------------------------------------------- no change of state


def process() -> dict:
    """The state that recording patches, sets or draws from."""
    import torch._dynamo.config as dynamo
    import torch._functorch.config as functorch
    import torch._inductor.config as inductor

    modules = {name: m for name, m in sys.modules.items() if name.split(".")[0] == "pyro"}
    return {
        **{(name, k): id(v) for name, module in modules.items() for k, v in vars(module).items()},
        "distributions": dict(vars(torch.distributions.Distribution)),
        "settings": pyro.settings.get(),
        "validation": torch.distributions.Distribution._validate_args,
        "generators": (bytes(torch.get_rng_state().untyped_storage()), random.getstate(), str(np.random.get_state())),  # noqa: NPY002
        "store": dict(pyro.get_param_store()),
        "handlers": len(pyro.poutine.runtime._PYRO_STACK),
        "compiler": [config.get_config_copy() for config in (inductor, dynamo, functorch)],
        "warnings": list(warnings.filters),
        "functions": len(torch.overrides._get_current_function_mode_stack()),
        "dispatch": len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
        "torch": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
    }


def changed(before: dict, after: dict) -> list:
    return [key for key in before if before[key] != after[key]]


def _fails_at(call: int):
    """An ELBO's gradient whose given call raises in the middle of the guide."""
    case, calls = LinearGaussian(inflate=1.3), []

    def guide(x):
        calls.append(0)
        z = case.vae.guide(x)
        if len(calls) == call:
            raise ZeroDivisionError
        return z

    def gradient(x):
        loss = Trace_ELBO(max_plate_nesting=1).differentiable_loss(case.vae.model, guide, x)
        return torch.autograd.grad(loss, list(case.vae.parameters()))

    return gradient, list(case.vae.parameters())


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("call", [0, 1, 2, 3])  # 0: none; the first run, the recorded one, the one that compares
def test_a_recording_changes_no_state(call: int, validate: bool) -> None:
    gradient, state = _fails_at(call)
    Replayed(lambda x: x, [])(torch.ones(3))  # loads the modules of torch's first recording
    saved = [t.detach().clone() for t in state]
    with pyro.validation_enabled(validate):
        before = process()
        if call:
            with pytest.raises((ZeroDivisionError, RecordingError)):
                Replayed(gradient, state).prepare(torch.randn(4, 7, generator=torch.Generator()))
        else:
            Replayed(gradient, state).prepare(torch.randn(4, 7, generator=torch.Generator()))
        assert changed(before, process()) == []
    assert same(saved, [t.detach() for t in state])


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_a_compilation_changes_no_state(fails: bool) -> None:
    gradient, state = _fails_at(0)
    function = (lambda x: x[x > 0]) if fails else gradient  # no code for a shape that depends on a value
    Recorded(lambda x: x + 1, [])(torch.ones(3))
    x = torch.randn(4, 7)
    before = process()
    if fails:
        with pytest.raises(RecordingError, match=r"^the shape of a tensor depends on values \(aten.nonzero"):
            Recorded(function, state).prepare(x)
    else:
        Recorded(function, state).prepare(x)
    assert changed(before, process()) == []


def test_a_replay_changes_only_the_generator() -> None:
    gradient, state = _fails_at(0)
    replayed, x = Replayed(gradient, state), torch.randn(4, 7)
    replayed.prepare(x)
    before = process()
    replayed(x)
    assert changed(before, process()) == ["generators"]


def test_recordable_restores_everything_after_an_error() -> None:
    def fail() -> None:
        with recordable():
            assert changed(before, process())
            raise ZeroDivisionError

    before = process()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert changed(before, process()) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_the_recorded_cross_entropy_is_as_exact_as_torch_s(target: float) -> None:
    logits = torch.linspace(-100, 100, 20_001, dtype=torch.float32)
    x = torch.full_like(logits, target)

    def entropy(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")

    exact = entropy(logits.double(), x.double())
    bound = 3e-7 * (1 + logits.double().abs())
    for compiled in (False, True):
        entropies = Recorded(entropy, [], compiled=compiled)(logits, x)
        assert ((entropies - exact).abs() <= bound).all()


@pytest.mark.slow
def test_the_recorded_tanh_is_as_exact_as_float32() -> None:
    ends = torch.tensor([0.0, 1e-30, 7.905, 7.906, 9.0, 100.0, torch.inf])
    x = torch.cat([torch.linspace(0, 10, 20_001), torch.logspace(-8, 0, 1_001), ends])
    x = torch.cat([x, -x]).float()
    exact = x.double().tanh()
    for compiled in (False, True):
        recorded = Recorded(torch.tanh, [], compiled=compiled)
        y = recorded(x)
        assert (y != x.tanh()).any()  # not by torch's kernel
        assert ((y - exact).abs() <= 4e-7 * exact.abs()).all()
        assert torch.equal(y.sign(), x.sign())
        assert y.abs().max() <= 1  # so that its derivative, 1 - y^2, is never negative
        assert recorded(torch.full_like(x, torch.nan)).isnan().all()
