"""One linear-Gaussian pair, z ~ N(0, I), x ~ N(W z + b, sigma^2 I), in the styles of Pyro programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Normal, constraints
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.nn import functional

from tests.linear_gaussian import LinearGaussian

Program = Callable[..., Any]
LATENT_DIM, DIM, SIGMA = 2, 3, 0.5


def numbers(*, inflate: float = 1.0, shift: float = 0.0) -> dict[str, Tensor]:
    """The parameters by name; with the defaults the guide is the exact posterior."""
    case = LinearGaussian(LATENT_DIM, DIM, scale=SIGMA)
    variance = case.posterior_variance()
    gain = variance.unsqueeze(-1) * case.weight.T / SIGMA**2  # (L, D)
    return {
        "weight": case.weight.contiguous(),
        "bias": case.bias,
        "log_sigma": torch.tensor(SIGMA).log(),
        "gain": gain,
        "offset": shift - gain @ case.bias,
        "log_scale": variance.sqrt().mul(inflate).log(),
    }


def log_evidence(x: Tensor) -> Tensor:
    """log p(x), (B,)."""
    return LinearGaussian(LATENT_DIM, DIM, scale=SIGMA).log_prob(x)


def data(num: int = 8, seed: int = 3) -> Tensor:
    """(num, D)."""
    return torch.randn(num, DIM, generator=torch.Generator().manual_seed(seed))


class Decoder(nn.Module):
    """Location and scale of x; with ``noisy`` there is dropout, which evaluation must turn off."""

    def __init__(self, start: dict[str, Tensor], *, noisy: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(LATENT_DIM, DIM)
        self.linear.weight, self.linear.bias = nn.Parameter(start["weight"]), nn.Parameter(start["bias"])
        self.log_sigma = nn.Parameter(start["log_sigma"])
        self.drop = nn.Dropout(0.5) if noisy else nn.Identity()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.drop(self.linear(z)), self.log_sigma.exp()

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.linear.weight, "bias": self.linear.bias, "log_sigma": self.log_sigma}


class Encoder(nn.Module):
    """Location and scale of z; with ``noisy`` there is batch normalization, in eval mode the identity before training.

    It is so exactly, since 1 + 1e-30 is 1 in float64.
    """

    def __init__(self, start: dict[str, Tensor], *, noisy: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(DIM, eps=1e-30, affine=False) if noisy else nn.Identity()
        self.linear = nn.Linear(DIM, LATENT_DIM)
        self.linear.weight, self.linear.bias = nn.Parameter(start["gain"]), nn.Parameter(start["offset"])
        self.log_scale = nn.Parameter(start["log_scale"])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(self.norm(x)), self.log_scale.exp()

    def tensors(self) -> dict[str, Tensor]:
        return {"gain": self.linear.weight, "offset": self.linear.bias, "log_scale": self.log_scale}


@dataclass(frozen=True)
class Written:
    """The pair in one style.

    Attributes:
        model: Pyro model.
        guide: Pyro guide.
        modules: modules with parameters; empty for some styles.
        tensors: the parameters as they are now, by the names of :func:`numbers`.
    """

    model: Program
    guide: Program
    modules: tuple[nn.Module, ...]
    tensors: Callable[[], dict[str, Tensor]]

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of the parameters and the buffers."""
        buffers = {f"{i}.{k}": b for i, module in enumerate(self.modules) for k, b in module.named_buffers()}
        return {k: t.detach().clone() for k, t in {**self.tensors(), **buffers}.items()}


@dataclass(frozen=True)
class Style:
    """A style.

    Attributes:
        name: name of the style.
        write: writes the pair from parameters, with dropout and batch normalization if ``noisy``.
        modular: whether modules hold the parameters, so that there is a mode.
        traits: particular properties: ``"function"`` for a guide that is no module nor a method of one, ``"bare"``
            for parameters that neither a module nor Pyro's store holds.
    """

    name: str
    write: Callable[..., Written]
    modular: bool = True
    traits: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return self.name

    def build(self, *, inflate: float = 1.0, shift: float = 0.0, noisy: bool = False) -> Written:
        return self.write(numbers(inflate=inflate, shift=shift), noisy=noisy)


def _nets(start: dict[str, Tensor], noisy: bool) -> tuple[Decoder, Encoder]:
    return Decoder(start, noisy=noisy), Encoder(start, noisy=noisy)


def _written(model: Program, guide: Program, decoder: Decoder, encoder: Encoder) -> Written:
    return Written(model, guide, (decoder, encoder), lambda: {**decoder.tensors(), **encoder.tensors()})


def model_of(decoder: Program, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", Normal(x.new_zeros(len(x), LATENT_DIM), 1.0).to_event(1))
        pyro.sample("x", Normal(*decoder(z)).to_event(1), obs=x)


def guide_of(encoder: Program, x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", Normal(*encoder(x)).to_event(1))


# Modules


class _Model(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, x: Tensor) -> None:
        model_of(self.decoder, x)


class _Guide(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> None:
        guide_of(self.encoder, x)


def _modules(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, noisy)
    return _written(_Model(decoder), _Guide(encoder), decoder, encoder)


class _Both(nn.Module):
    def __init__(self, decoder: Decoder, encoder: Encoder) -> None:
        super().__init__()
        self.decoder, self.encoder = decoder, encoder

    def model(self, x: Tensor) -> None:
        pyro.module("both", self)
        model_of(self.decoder, x)

    def guide(self, x: Tensor) -> None:
        pyro.module("both", self)
        guide_of(self.encoder, x)


def _bound_methods(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, noisy)
    both = _Both(decoder, encoder)
    return _written(both.model, both.guide, decoder, encoder)


class _PyroModel(PyroModule):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.output, self.drop = decoder.linear, decoder.drop
        self.sigma = PyroParam(decoder.log_sigma.detach().exp(), constraint=constraints.positive)

    def forward(self, x: Tensor) -> None:
        model_of(lambda z: (self.drop(self.output(z)), self.sigma), x)


class _PyroGuide(PyroModule):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.norm, self.reader = encoder.norm, encoder.linear
        self.scale = PyroParam(encoder.log_scale.detach().exp(), constraint=constraints.positive)

    def forward(self, x: Tensor) -> None:
        guide_of(lambda x: (self.reader(self.norm(x)), self.scale), x)


def _pyro_modules(start: dict[str, Tensor], *, noisy: bool) -> Written:
    model, guide = _PyroModel(Decoder(start, noisy=noisy)), _PyroGuide(Encoder(start, noisy=noisy))

    def tensors() -> dict[str, Tensor]:
        model_tensors = {
            "weight": model.output.weight,
            "bias": model.output.bias,
            "log_sigma": model.sigma_unconstrained,
        }
        guide_tensors = {
            "gain": guide.reader.weight,
            "offset": guide.reader.bias,
            "log_scale": guide.scale_unconstrained,
        }
        return {**model_tensors, **guide_tensors}

    return Written(model, guide, (model, guide), tensors)


# Functions


def _closure(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, noisy)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        model_of(decoder, x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        guide_of(encoder, x)

    return _written(model, guide, decoder, encoder)


global_decoder: nn.Module
global_encoder: nn.Module


def global_model(x: Tensor) -> None:
    pyro.module("decoder", global_decoder)
    model_of(global_decoder, x)


def global_guide(x: Tensor) -> None:
    pyro.module("encoder", global_encoder)
    guide_of(global_encoder, x)


def _globals(start: dict[str, Tensor], *, noisy: bool) -> Written:
    global global_decoder, global_encoder
    global_decoder, global_encoder = decoder, encoder = _nets(start, noisy)
    return _written(global_model, global_guide, decoder, encoder)


def _param(start: dict[str, Tensor], *, noisy: bool) -> Written:
    def model(x: Tensor) -> None:
        weight, bias = pyro.param("weight", start["weight"]), pyro.param("bias", start["bias"])
        sigma = pyro.param("sigma", start["log_sigma"].exp(), constraint=constraints.positive)
        model_of(lambda z: (z @ weight.T + bias, sigma), x)

    def guide(x: Tensor) -> None:
        gain, offset = pyro.param("gain", start["gain"]), pyro.param("offset", lambda: start["offset"])
        scale = pyro.param("scale", start["log_scale"].exp(), constraint=constraints.positive)
        guide_of(lambda x: (x @ gain.T + offset, scale), x)

    def tensors() -> dict[str, Tensor]:
        names = {"log_sigma": "sigma", "log_scale": "scale"}
        return {k: pyro.param(names.get(k, k)).unconstrained() for k in start}

    for program in (guide, model):
        program(data())
    return Written(model, guide, (), tensors)


def _bare(start: dict[str, Tensor], *, noisy: bool) -> Written:
    weight, bias, log_sigma, gain, offset, log_scale = leaves = [t.clone().requires_grad_() for t in start.values()]

    def model(x: Tensor) -> None:
        model_of(lambda z: (z @ weight.T + bias, log_sigma.exp()), x)

    def guide(x: Tensor) -> None:
        guide_of(lambda x: (x @ gain.T + offset, log_scale.exp()), x)

    return Written(model, guide, (), lambda: dict(zip(start, leaves, strict=True)))


def _uncalled(start: dict[str, Tensor], *, noisy: bool) -> Written:
    """The functions take the modules' parameters without calling the modules."""
    decoder, encoder = _nets(start, False)

    def model(x: Tensor) -> None:
        layer = decoder.linear
        model_of(lambda z: (functional.linear(z, layer.weight, layer.bias), decoder.log_sigma.exp()), x)

    def guide(x: Tensor) -> None:
        layer = encoder.linear
        guide_of(lambda x: (functional.linear(x, layer.weight, layer.bias), encoder.log_scale.exp()), x)

    return _written(model, guide, decoder, encoder)


def _uncalled_partials(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, False)

    def model(net: Decoder, x: Tensor) -> None:
        model_of(lambda z: (z @ net.linear.weight.T + net.linear.bias, net.log_sigma.exp()), x)

    def guide(x: Tensor, *, net: Encoder) -> None:
        guide_of(lambda x: (x @ net.linear.weight.T + net.linear.bias, net.log_scale.exp()), x)

    return _written(partial(model, decoder), partial(guide, net=encoder), decoder, encoder)


def _in_a_dictionary(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, noisy)
    nets = {"decoder": decoder, "encoders": [encoder]}

    def model(x: Tensor) -> None:
        model_of(nets["decoder"], x)

    def guide(x: Tensor) -> None:
        guide_of(nets["encoders"][0], x)

    return _written(model, guide, decoder, encoder)


# Wrappers


def _lambdas(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, noisy)
    return _written(lambda x: model_of(decoder, x), lambda x: guide_of(encoder, x), decoder, encoder)


def _partials(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, noisy)
    return _written(partial(model_of, decoder), partial(guide_of, encoder), decoder, encoder)


def _scaled(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, noisy)
    model, guide = (poutine.scale(program, scale=1.0) for program in (_Model(decoder), _Guide(encoder)))
    return _written(model, guide, decoder, encoder)


def _masked(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, noisy)
    both = _Both(decoder, encoder)
    model, guide = (poutine.mask(program, mask=torch.tensor(True)) for program in (both.model, both.guide))
    return _written(model, guide, decoder, encoder)


def _masked_rows(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, noisy)

    def model(x: Tensor) -> None:
        with poutine.mask(mask=torch.ones(len(x), dtype=torch.bool)):
            model_of(decoder, x)

    def guide(x: Tensor) -> None:
        with poutine.mask(mask=torch.ones(len(x), dtype=torch.bool)):
            guide_of(encoder, x)

    return _written(model, guide, decoder, encoder)


def _twice(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, noisy)
    model = partial(poutine.scale(poutine.mask(model_of, mask=True), scale=1.0), decoder)
    return _written(model, poutine.scale(partial(guide_of, encoder), scale=1.0), decoder, encoder)


def _decorated(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, noisy)

    def logged(program: Program) -> Program:
        @wraps(program)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return program(*args, **kwargs)

        return wrapper

    return _written(logged(_Model(decoder)), logged(partial(guide_of, encoder)), decoder, encoder)


# Objects that are no modules


class _Script:
    def __init__(self, decoder: Decoder, encoder: Encoder) -> None:
        self.decoder, self.encoder = decoder, encoder

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        model_of(self.decoder, x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        guide_of(self.encoder, x)


def _object_methods(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, noisy)
    script = _Script(decoder, encoder)
    return _written(script.model, script.guide, decoder, encoder)


class _Callable:
    def __init__(self, program: Program, net: nn.Module) -> None:
        self.program, self.nets = program, [net]

    def __call__(self, x: Tensor) -> None:
        self.program(self.nets[0], x)


def _callable_objects(start: dict[str, Tensor], *, noisy: bool) -> Written:
    decoder, encoder = _nets(start, noisy)
    return _written(_Callable(model_of, decoder), _Callable(guide_of, encoder), decoder, encoder)


_FUNCTION = frozenset({"function"})
STYLES = [
    Style("module", _modules),
    Style("bound-method", _bound_methods),
    Style("pyro-module", _pyro_modules),
    Style("closure", _closure, traits=_FUNCTION),
    Style("globals", _globals, traits=_FUNCTION),
    Style("pyro-param", _param, False, _FUNCTION),
    Style("bare-tensors", _bare, False, _FUNCTION | {"bare"}),
    Style("uncalled", _uncalled, False, _FUNCTION),
    Style("uncalled-partial", _uncalled_partials, False, _FUNCTION),
    Style("dictionary", _in_a_dictionary, traits=_FUNCTION),
    Style("lambda", _lambdas, traits=_FUNCTION),
    Style("partial", _partials, traits=_FUNCTION),
    Style("scaled", _scaled, traits=_FUNCTION),
    Style("masked", _masked, traits=_FUNCTION),
    Style("masked-rows", _masked_rows, traits=_FUNCTION),
    Style("wrapped-twice", _twice, traits=_FUNCTION),
    Style("decorated", _decorated, traits=_FUNCTION),
    Style("object-method", _object_methods, traits=_FUNCTION),
    Style("callable-object", _callable_objects, traits=_FUNCTION),
]
MODULE = STYLES[0]
