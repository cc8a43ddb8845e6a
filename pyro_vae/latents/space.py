"""One latent of a trained model: from data to its codes, and from codes to p(x | z)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pyro_vae._core.checks import check_count, refusal, require
from pyro_vae._core.contexts import isolated_rng, reseed
from pyro_vae._core.owners import evaluating, placement
from pyro_vae._core.traces import is_auxiliary, latents, observations
from pyro_vae._core.types import Program
from pyro_vae.data.batches import Batches, Data, arguments
from pyro_vae.evaluation.marginals import moments
from pyro_vae.models import VAE

_OWNER = "LatentSpace"

Inputs: TypeAlias = "Tensor | tuple[Tensor, ...] | Codes"
"""Data ``(N, *data_shape)``; with further arguments of model and guide, such as classes, a tuple; or their codes."""


class ModelAndGuide(Protocol):
    """A model of this package, or any object with a Pyro model and its guide."""

    model: Program
    guide: Program


@dataclass(frozen=True)
class Codes:
    """Values of one latent for N data, with whatever else p(x | z) of these data depends on.

    Attributes:
        z: ``(N, L)``.
        held: values of the latents that the model samples before z, such as the class of M2, ``(N, ...)`` each.
        args: the data, of which only the shape matters, and further arguments of the programs.
        site: name of the latent.
    """

    z: Tensor
    held: dict[str, Tensor]
    args: tuple[Tensor, ...]
    site: str = "z"

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, rows: Tensor | slice) -> Codes:
        held = {name: value[rows] for name, value in self.held.items()}
        return replace(self, z=self.z[rows], held=held, args=tuple(a[rows] for a in self.args))

    @staticmethod
    def cat(parts: Sequence[Codes]) -> Codes:
        """The codes of all parts."""
        held = {name: torch.cat([part.held[name] for part in parts]) for name in parts[0].held}
        args = tuple(torch.cat(column) for column in zip(*(part.args for part in parts), strict=False))
        return replace(parts[0], z=torch.cat([part.z for part in parts]), held=held, args=args)

    def at(self, z: Tensor) -> Codes:
        """The same data with other values of z."""
        return replace(self, z=z)

    def towards(self, other: Codes, fraction: float | Tensor, z: Tensor) -> Codes:
        """Codes with the values z, in all else at a fraction of the straight path to other codes; integers switch."""

        def between(a: Tensor, b: Tensor) -> Tensor:
            t = torch.as_tensor(fraction, device=a.device).reshape(-1, *(1,) * (a.dim() - 1))
            return torch.lerp(a, b, t.to(a)) if a.is_floating_point() else torch.where(t < 0.5, a, b)

        held = {name: between(value, other.held[name]) for name, value in self.held.items()}
        # Only one of them may have a known class, which both hold.
        args = tuple(between(a, b) for a, b in zip(self.args, other.args, strict=False))
        return replace(self, z=z, held=held, args=args)

    def repeat(self, num: int) -> Codes:
        """Every code ``num`` times in succession."""
        return self[torch.arange(len(self), device=self.z.device).repeat_interleave(num)]


class LatentSpace:
    r"""Context in which one latent of a model is encoded and decoded: in eval mode, without gradients, seeded.

    A code is the posterior mean. Latents other than this one are set to their means, or discrete ones to their mode:
    those that the guide samples before, in :math:`q(z | \cdot)`; those that the model samples before, as
    :attr:`Codes.held`; and those that it samples between z and x, in p(x | z). A mean without a closed form, as of a
    flow, is estimated from samples.

    Args:
        vae: the model, or any object with a Pyro model and its guide as attributes.
        site: name of the latent; None for ``"z"``, or ``"z1"``, the layer next to the data, of a hierarchy. M1+M2 has
            the style ``"z"`` and the latent ``"z1"`` of M1.
        num_samples: number of samples for means and variances without a closed form.
        batch_size: data at a time, of data sets.
        seed: seed of the samples; the global generators are restored.

    Raises:
        ValueError: ``vae`` has no model and guide, or a number is too small; at the first use, there is no such latent,
            it is discrete or no vector, or the model has no data site with a mean.

    Example:
        >>> from pyro_vae import VAE, guides, likelihoods, priors
        >>> guide, likelihood = guides.IAFGuide((5,), 2), likelihoods.BernoulliLikelihood(2, (5,))
        >>> with LatentSpace(VAE(priors.StandardNormalPrior(2), likelihood, guide), num_samples=100) as space:
        ...     space.decode(space.encode(torch.ones(3, 5))).shape
        torch.Size([3, 5])
    """

    def __init__(
        self,
        vae: ModelAndGuide,
        site: str | None = None,
        *,
        num_samples: int = 1000,
        batch_size: int = 500,
        seed: int = 0,
    ) -> None:
        check_count(_OWNER, 2, num_samples=num_samples)
        check_count(_OWNER, batch_size=batch_size)
        complete = callable(getattr(vae, "model", None)) and callable(getattr(vae, "guide", None))
        advice = "Pass a VAE, or an object with a Pyro model and its guide as attributes"
        require(complete, _OWNER, "vae must have a model and a guide", type(vae).__name__, advice)
        self.vae, self.site, self.num_samples, self.batch_size, self.seed = vae, site, num_samples, batch_size, seed
        self._before: list[str] | None = None  # latents that the model samples before z
        self._stacks: list[ExitStack] = []  # one per nested ``with``

    def __enter__(self) -> LatentSpace:
        stack = ExitStack()
        stack.enter_context(evaluating(self.vae.model, self.vae.guide))
        stack.enter_context(isolated_rng(self.seed))
        self._stacks.append(stack)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stacks.pop().close()

    def encode(self, x: Inputs) -> Codes:
        """The codes of data; codes are returned as they are."""
        return x if isinstance(x, Codes) else self.posterior(x)[0]

    def posterior(self, x: Tensor | tuple[Tensor, ...], number: int = 0) -> tuple[Codes, TorchDistribution]:
        """The codes of data, and the posterior of z given the other latents, batch shape ``(N,)``.

        Args:
            x: the data; without further arguments a tensor.
            number: of the stream of random numbers.
        """
        reseed(self.seed, number)
        tensors = x if isinstance(x, tuple) else (x,)
        others = [type(t).__name__ for t in tensors if not isinstance(t, Tensor)]
        require(not others, _OWNER, "data must be tensors", ", ".join(others), "Pass batch(range(N)) of an ImageSet")
        args = arguments(tensors, *placement(self.vae.model, self.vae.guide))
        if isinstance(self.vae, VAE):  # whose guide as a program hides the marginal q(z | x) of an auxiliary variable
            q = self.vae.encode(args[0])
            self._checked_site({"z": q})
            return Codes(moments(q, self.num_samples)[0], {}, args[:1]), q
        trace = self._run(self.vae.guide, args)
        sites = {site["name"]: site for site in latents(trace) if not is_auxiliary(site)}
        name = self._checked_site({name: site["fn"] for name, site in sites.items()})
        if self._before is None:
            order = [site["name"] for site in latents(self._run(self.vae.model, args))]
            rule = f"site must be a latent of the model ({', '.join(order) or 'none'})"
            require(name in order, _OWNER, rule, f"site={name!r}")
            self._before = order[: order.index(name)]
        held = {other: site["value"] for other, site in sites.items() if other in self._before}
        return Codes(sites[name]["value"], held, args, name), sites[name]["fn"]

    def batches(self, data: Data) -> Iterator[tuple[Codes, TorchDistribution]]:
        """Codes and posteriors of a data set, batch by batch."""
        device, dtype = placement(self.vae.model, self.vae.guide)
        for number, batch in enumerate(Batches(data, self.batch_size, device=device, dtype=dtype).epoch()):
            yield self.posterior(batch.args, number)

    def means(self, data: Data) -> Tensor:
        """The values of z of a data set, ``(N, L)``."""
        return torch.cat([codes.z for codes, _ in self.batches(data)])

    def prior(self, codes: Codes) -> TorchDistribution:
        """p(z | held), batch shape ``(N,)``."""
        return self._decoded(codes).nodes[codes.site]["fn"]

    def decode(self, codes: Codes) -> Tensor:
        """Means of p(x | z), ``(N, *data_shape)``.

        Raises:
            ValueError: the model has no data site, or its distribution has no mean.
        """
        trace = self._decoded(codes)
        sites = {site["name"]: site["fn"] for site in observations(trace) if site["name"] not in codes.held}
        sites.pop(codes.site, None)
        name = "x" if "x" in sites else next(iter(sites), "none")
        rule, advice = "the model must have one data site", "Name the decoder's site x"
        require(name in sites and (name == "x" or len(sites) == 1), _OWNER, rule, ", ".join(sites) or "none", advice)
        try:
            return sites[name].mean
        except NotImplementedError:
            what, advice = type(sites[name]).__name__, "Use a likelihood with a mean"
            raise refusal(_OWNER, "p(x | z) must have a mean", what, advice) from None

    def _decoded(self, codes: Codes) -> Trace:
        reseed(self.seed, 0)  # for estimated means of the latents between z and x
        return self._run(poutine.condition(self.vae.model, {**codes.held, codes.site: codes.z}), codes.args)

    def _run(self, program: Program, args: tuple[Tensor, ...]) -> Trace:
        with _AtMeans(self.num_samples):
            return poutine.trace(program).get_trace(*args)

    def _checked_site(self, sites: dict[str, TorchDistribution]) -> str:
        names = ", ".join(sites) or "none"
        default = "z" if "z" in sites else "z1" if "z1" in sites else next(iter(sites), "none")
        require(bool(sites), _OWNER, "the model must have latent variables", "none", "Use a VAE")
        name = default if self.site is None else self.site
        require(name in sites, _OWNER, f"site must be a latent of the guide ({names})", f"site={name!r}")
        fn = sites[name]
        advice = "Decode its values one by one, or draw a LabelledVAE's classes with plotting.class_samples"
        require(not fn.has_enumerate_support, _OWNER, "the latent must be continuous", f"the discrete {name}", advice)
        vector = len(fn.event_shape) == 1 and len(fn.batch_shape) == 1
        shapes = f"{name} with batch shape {tuple(fn.batch_shape)} and event shape {tuple(fn.event_shape)}"
        require(vector, _OWNER, "the latent must be a vector for each datum", shapes, "Declare it with .to_event(1)")
        return name


Model: TypeAlias = "ModelAndGuide | LatentSpace"


def latent_space(vae: Model) -> LatentSpace:
    """The latent space itself, or that of the model's default latent."""
    return vae if isinstance(vae, LatentSpace) else LatentSpace(vae)


class _AtMeans(Messenger):
    """Set latents to their means, and discrete ones to their most probable values, instead of sampling them."""

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self.num_samples = num_samples

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or isinstance(msg["fn"], _Subsample):
            return
        msg["value"], msg["done"] = _centre(msg["fn"], self.num_samples), True


def _centre(fn: TorchDistribution, num_samples: int) -> Tensor:
    if not fn.has_enumerate_support:
        return moments(fn, num_samples)[0]
    values = fn.enumerate_support(expand=False)  # (V, 1, *event)
    best = fn.log_prob(values).argmax(0)  # (N,)
    return values.reshape(len(values), *fn.event_shape)[best]
