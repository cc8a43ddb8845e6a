"""Which guides, priors and likelihoods can be coded; prints the table of docs/compression.md.

python -m tools.coded
"""

from __future__ import annotations

from typing import Any

import torch

from pyro_vae import VAE, guides, likelihoods, priors
from pyro_vae.compression import compress
from tests.test_contracts import DATA_SHAPE, L, build, concrete, small

FOLDERS = {"guide": guides, "prior": priors, "likelihood": likelihoods}
OPTIONS = {"IAFGuide": "num_flows", "FlowPrior": "num_flows"}
"""Options that must be 1."""


def refusal(cls: Any) -> str | None:
    """Why a VAE with a part of this class cannot be coded; None if it can."""
    try:
        vae = _with(_part(cls))
        compress(vae.eval(), torch.zeros(2, *vae.data_shape))
    except ValueError as error:
        return str(error)
    return None


def _part(cls: Any) -> Any:
    if cls is guides.IAFGuide:
        return cls(DATA_SHAPE, L, net=small, num_flows=1)
    return cls(L, num_flows=1) if cls is priors.FlowPrior else build(cls)


def _with(part: Any) -> VAE:
    """A VAE with the part, and default classes for the others."""
    latent_dim = part.latent_dim
    shape = getattr(part, "data_shape", DATA_SHAPE)
    categories = getattr(part, "categories", None)
    choose: Any = {priors.Prior: lambda: priors.StandardNormalPrior(latent_dim)}
    choose[likelihoods.Likelihood] = lambda: likelihoods.BernoulliLikelihood(latent_dim, shape, net=small)
    choose[guides.Guide] = lambda: guides.DiagonalNormalGuide(shape, latent_dim, net=small)
    if categories is not None:
        choose[priors.Prior] = lambda: priors.CategoricalPrior(latent_dim, categories=categories)
        choose[guides.Guide] = lambda: guides.CategoricalGuide(shape, latent_dim, categories=categories, net=small)
    return VAE(*(part if isinstance(part, base) else default() for base, default in choose.items()))


def refusals() -> dict[str, dict[str, str | None]]:
    """The refusal of each class of each folder, None if it is coded."""
    return {kind: {c.__name__: refusal(c) for c in concrete(folder)} for kind, folder in FOLDERS.items()}


def table(messages: dict[str, dict[str, str | None]]) -> list[str]:
    """The lines of the table."""
    lines = ["| part | coded | refused |", "|---|---|---|"]
    for kind, of_kind in messages.items():
        cells = [[n for n in of_kind if (of_kind[n] is None) is coded] for coded in (True, False)]
        marked = [", ".join(f"`{n}`{f' ({OPTIONS[n]}=1)' if n in OPTIONS else ''}" for n in cell) for cell in cells]
        lines.append(f"| {kind} | {marked[0]} | {marked[1]} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table(refusals())))
