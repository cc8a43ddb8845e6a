"""Checks that observed values lie in the support of their site, and that a guide covers the support of a latent."""

from __future__ import annotations

import re
from typing import Any

import torch
from pyro.distributions import Bernoulli, MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution, constraints

_MISSING = "Remove such data; or, if NaN means missing, build VAE(..., missing=True) with the guide's ZeroFilledNetwork"


class OneLineError(ValueError):
    """An error inside a program that keeps its first line only, without the shapes that Pyro appends."""

    def __init__(self, message: str) -> None:
        super().__init__(message.splitlines()[0])


class SupportError(OneLineError):
    """Data outside the support of a likelihood; the message names the row of the batch."""

    def in_data(self, index: Tensor | None) -> SupportError:
        """The same error with the index in the data set in place of the row of the batch."""
        match = re.search(r"at row (\d+)", str(self))
        if index is None or match is None or int(match[1]) >= len(index):
            return self
        return SupportError(str(self).replace(match[0], f"at datum {int(index[int(match[1])])}"))


def outside(owner: str, rule: str, value: str, bad: Tensor) -> SupportError:
    """The error for values marked by ``bad``, whose first dimension is the batch."""
    row = int(bad.reshape(len(bad), -1).any(1).nonzero()[0]) if bad.dim() else 0
    advice = "Change the data (binarize them, or remove such data) or the likelihood"
    advice = _MISSING if value == "NaN" else advice
    return SupportError(f"{owner}: {rule}, got {value}, the first at row {row}. {advice}.")


class SupportCheck(Messenger):
    """Context that raises on observed values outside the support of their site; much cheaper than full validation.

    Args:
        owner: name that the message begins with.

    Raises:
        ValueError: naming site and row.

    Example:
        >>> import pyro, torch
        >>> from pyro.distributions import Bernoulli
        >>> with SupportCheck("fit"):
        ...     pyro.sample("x", Bernoulli(logits=torch.zeros(2)), obs=torch.tensor([1.0, 0.5]))
        Traceback (most recent call last):
        ...
        pyro_vae._core.support.SupportError: fit: data must lie in the support of site 'x' (Boolean()), ...
    """

    def __init__(self, owner: str) -> None:
        super().__init__()
        self.owner = owner

    def _pyro_post_sample(self, msg: Any) -> None:
        support = _support(msg)
        if support is None:
            return
        bad = ~torch.as_tensor(support.check(msg["value"]))
        if bad.any():
            value = "NaN" if bool(torch.isnan(msg["value"][bad if bad.dim() else ...]).any()) else "another value"
            rule = f"data must lie in the support of site {msg['name']!r} ({support})"
            raise outside(self.owner, rule, value, bad)


class SupportFlag(Messenger):
    """Context that records, as tensors and without synchronisation, whether observed values lie in the support.

    Example:
        >>> import pyro, torch
        >>> from pyro.distributions import Bernoulli
        >>> with SupportFlag() as flag, pyro.validation_enabled(False):
        ...     _ = pyro.sample("x", Bernoulli(logits=torch.zeros(2)), obs=torch.tensor([1.0, 0.5]))
        >>> flag.all(torch.tensor(True))
        tensor(False)
    """

    def __init__(self) -> None:
        super().__init__()
        self._inside: list[Tensor] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        support = _support(msg)
        if support is not None:
            self._inside.append(torch.as_tensor(support.check(msg["value"])).all())

    def all(self, flag: Tensor) -> Tensor:
        """Conjunction of ``flag`` and the checks of all observed values."""
        for inside in self._inside:
            flag = flag & inside
        return flag


def _support(msg: Any) -> Any:
    """The support of an observed site; None for other sites and unknown supports."""
    if not msg["is_observed"] or not isinstance(msg["value"], Tensor) or msg["infer"].get("_deterministic"):
        return None
    try:
        return msg["fn"].support
    except NotImplementedError:
        return None


def support_of(fn: Any) -> str:
    """The support of a distribution in words; without its bounds if these are many."""
    text = str(fn.support)
    return text if len(text) < 80 else type(getattr(fn.support, "base_constraint", fn.support)).__name__.strip("_")


def covers(guide: Any, model: Any) -> bool:
    """Whether the guide's distribution can produce every value that the model's can; True if that is unknown."""
    try:
        discrete = bool(guide.support.is_discrete and model.support.is_discrete)
        bounds, model_bounds = _bounds(guide), _bounds(model)
    except NotImplementedError:
        return True
    if discrete and hasattr(guide, "probs") and hasattr(model, "probs"):
        proposed, possible = guide.probs, model.probs  # log_prob clamps the probability of an impossible class
        if guide.has_enumerate_support and model.has_enumerate_support and type(guide) is type(model):
            if not isinstance(guide, Bernoulli) and proposed.shape[-1] != possible.shape[-1]:
                return False
            missing = ((proposed == 0) & (possible > 0)) | ((proposed == 1) & (possible < 1))
            return not bool(missing.any())
    if bounds is None or model_bounds is None:
        return True
    return bool((bounds[0] <= model_bounds[0]).all() and (bounds[1] >= model_bounds[1]).all())


def _bounds(fn: Any) -> tuple[Tensor, Tensor] | None:
    """Lower and upper bound of a distribution's values; None if unknown."""
    while isinstance(fn, Independent | MaskedDistribution):
        fn = fn.base_dist
    if isinstance(fn, TransformedDistribution):  # torch gives the last transform's codomain
        inner = _bounds(fn.base_dist)
        if inner is None or any(transform.domain.event_dim for transform in fn.transforms):
            return None if inner is None or torch.isfinite(torch.stack(inner)).any() else _bounds_of(fn.support)
        for transform in fn.transforms:
            low, high = (transform(end) for end in inner)
            inner = torch.minimum(low, high), torch.maximum(low, high)
        return inner
    return _bounds_of(fn.support)


def _bounds_of(support: Any) -> tuple[Tensor, Tensor] | None:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.real:
        return torch.tensor(-torch.inf), torch.tensor(torch.inf)
    if support in (constraints.boolean, constraints.simplex):
        return torch.tensor(0.0), torch.tensor(1.0)
    lower, upper = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if lower is None and upper is None:
        return None
    lower, upper = (-torch.inf if lower is None else lower), (torch.inf if upper is None else upper)
    return torch.as_tensor(lower).float(), torch.as_tensor(upper).float()
