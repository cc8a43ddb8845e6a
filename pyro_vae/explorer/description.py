"""A model as plain values and packed weights that the explorer's JavaScript evaluates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import refusal, require
from pyro_vae._core.owners import evaluating
from pyro_vae.explorer.layers import Recorder
from pyro_vae.explorer.packing import Pack
from pyro_vae.guides import DiagonalNormalGuide, FullRankNormalGuide
from pyro_vae.likelihoods import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    LaplaceLikelihood,
    NormalLikelihood,
)
from pyro_vae.models import VAE, SemiSupervisedVAE
from pyro_vae.priors import MixtureOfNormalsPrior, StandardNormalPrior, VampPrior

_LIKELIHOODS: dict[type, str] = {
    BernoulliLikelihood: "bernoulli",
    ContinuousBernoulliLikelihood: "continuous_bernoulli",
    DiscretizedLogisticLikelihood: "discretized_logistic",
    LaplaceLikelihood: "laplace",
    NormalLikelihood: "normal",
}
_GUIDES: dict[type, str] = {DiagonalNormalGuide: "diagonal", FullRankNormalGuide: "full"}


def describe_model(vae: Any, pack: Pack) -> dict[str, Any]:
    """The pieces of a VAE or of M2, with the weights appended to a pack.

    Raises:
        ValueError: the model, or one of its pieces, is of another class.
    """
    advice = "Use VAE or SemiSupervisedVAE; for other models, draw figures with pyro_vae.latents"
    require(type(vae) in (VAE, SemiSupervisedVAE), "explore", "vae must be a VAE or M2", type(vae).__name__, advice)
    with evaluating(vae.model, vae.guide):
        return _described(vae, _Pieces(pack))


def _described(vae: Any, pieces: _Pieces) -> dict[str, Any]:
    model = {"latent_dim": vae.latent_dim, "prior": pieces.prior(vae.prior), "classes": 0}
    labelled = isinstance(vae, SemiSupervisedVAE)
    guide = vae.guide.guide if labelled else vae.guide
    model |= {"likelihood": pieces.likelihood(vae.likelihood), "guide": pieces.guide(guide)}
    if labelled:
        log_p = vae.label_prior.logits[0].log_softmax(-1)
        classes = {"classes": vae.num_classes, "label_prior": pieces.pack.vector(log_p)}
        model |= {**classes, "classifier": pieces.network(vae.classifier.net)}
    return model


class _Pieces:
    def __init__(self, pack: Pack) -> None:
        self.pack, self.network = pack, Recorder(pack).network

    def prior(self, prior: Any) -> dict[str, Any]:
        """A mixture of diagonal normals."""
        kind, advice = type(prior), "Use StandardNormalPrior, MixtureOfNormalsPrior or VampPrior"
        if kind is StandardNormalPrior:
            logits, locs, scales = torch.zeros(1), prior.loc, prior.scale
        elif kind is MixtureOfNormalsPrior:
            logits, locs, scales = prior.logits, prior.locs, prior.log_scales.exp()
        elif kind is VampPrior and type(prior.guide) is DiagonalNormalGuide:
            normals = prior().components().base_dist
            logits, locs, scales = torch.zeros(len(normals.loc)), normals.loc, normals.scale
        else:
            name = f"{kind.__name__} of {type(prior.guide).__name__}" if kind is VampPrior else kind.__name__
            raise refusal("explore", "the prior must be of normals", name, advice)
        parts = {"logits": logits.log_softmax(-1), "locs": locs, "scales": scales}
        return {name: self.pack.vector(value) for name, value in parts.items()}

    def likelihood(self, p: Any) -> dict[str, Any]:
        """Kind, network, offset and scales."""
        kind = _LIKELIHOODS.get(type(p))
        if kind is None:
            names = ", ".join(c.__name__ for c in _LIKELIHOODS)
            raise refusal("explore", "the likelihood must run in the browser", type(p).__name__, f"Use one of {names}")
        scales: dict[str, Any] = {}
        if kind == "discretized_logistic":
            scales = {"scale": self.pack.vector(p.min_scale + p.log_scale.exp()), "levels": p.levels}
        elif kind in ("normal", "laplace") and p.from_network:
            scales = {"min_scale": p.min_scale, "log_scale": self.pack.vector(p.log_scale)}
        elif kind in ("normal", "laplace"):
            scales = {"scale": self.pack.vector(p.scale().expand(p.data_shape))}
        return {"kind": kind, "offset": self.pack.vector(p.offset), "layers": self.network(p.net), **scales}

    def guide(self, guide: Any) -> dict[str, Any]:
        """Kind, network and limits of the log scale."""
        kind, advice = type(guide), "Run pyro-vae refit RUN --guide DiagonalNormalGuide, and explore that run"
        rule = "the guide must be a DiagonalNormalGuide or FullRankNormalGuide"
        require(kind in _GUIDES, "explore", rule, kind.__name__, advice)
        return {"kind": _GUIDES[kind], "layers": self.network(guide.net), "log_scale_bounds": guide.log_scale_bounds}


def steps_of(x: Tensor, max_value: int | None) -> int | None:
    """The number of steps between 0 and 1 of which all data are multiples, at most 255; None if there is none."""
    for steps in (1, max_value, 255):
        if steps is not None and steps <= 255 and x.min() >= 0 and x.max() <= 1:
            levels = x.double() * steps
            if (levels - levels.round()).abs().max() < 1e-3:
                return steps
    return None
