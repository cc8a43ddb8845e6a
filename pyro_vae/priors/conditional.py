"""The conditional prior."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import require
from pyro_vae.networks.context import as_vector
from pyro_vae.priors.base import Prior
from pyro_vae.priors.vamp import Encoder


class ConditionalPrior(Prior):
    r"""Prior given a context, :math:`p(z | c)`: the family of a guide, with c in the place of the data.

    A prior of :class:`~pyro_vae.ConditionalVAE`. ``DiagonalNormalGuide`` makes it a normal whose loc and scale are
    functions of c, as in the reference; any guide with a density can take its place, such as ``IAFGuide``.

    Args:
        guide: p(z | c), whose ``data_shape`` is the shape of c, ``(C,)`` for C classes.

    Shape:
        ``forward(c)`` of contexts ``(*batch, *context_shape)``, or of classes ``batch`` of an integer dtype, returns a
        distribution with batch shape ``batch`` and event shape ``(latent_dim,)``.

    Raises:
        ValueError: the guide has no density, or depends on the model.

    References:
        Learning structured output representation using deep conditional generative models (Sohn, Lee and Yan, 2015),
        section 4.1.
        https://papers.nips.cc/paper/2015/hash/8d55a249e6baa5c06772297520da2051-Abstract.html

    Example:
        >>> import torch
        >>> from pyro_vae.guides import DiagonalNormalGuide
        >>> from pyro_vae.priors import ConditionalPrior
        >>> ConditionalPrior(DiagonalNormalGuide((10,), 2))(torch.tensor([3, 3, 7])).sample().shape
        torch.Size([3, 2])
    """

    conditional = True

    def __init__(self, guide: Encoder) -> None:
        super().__init__(guide.latent_dim)
        usable = getattr(guide, "has_density", True) and not getattr(guide, "needs_model", False)
        rule, advice = "the guide must have a density that does not depend on the model", "Use DiagonalNormalGuide"
        require(usable, "ConditionalPrior", rule, f"guide={type(guide).__name__}", advice)
        self.guide, self.context_shape = guide, tuple(guide.data_shape)
        self.discrete = bool(getattr(guide, "discrete", False))

    def forward(self, context: Tensor) -> TorchDistribution:  # type: ignore[override]
        """p(z | c), with batch shape ``batch`` and event shape ``(latent_dim,)``."""
        dtype = next(self.guide.parameters()).dtype if isinstance(self.guide, nn.Module) else context.dtype
        return self.guide.posterior(as_vector(context, self.context_shape[-1], dtype))
