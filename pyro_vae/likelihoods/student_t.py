"""Student t likelihood of real-valued data with outliers."""

from __future__ import annotations

from typing import Literal

import torch
from pyro.distributions import StudentT, TorchDistribution
from torch import Tensor, nn

from pyro_vae._core.checks import check_choice, require
from pyro_vae.likelihoods.location_scale import LearnedScale, LocationScaleLikelihood
from pyro_vae.networks import MLP, NetworkFactory, Shape


class StudentTLikelihood(LocationScaleLikelihood):
    r"""Independent Student t pixels, :math:`p(x | z) \propto \prod_d [1 + ((x_d - f_d(z))/s_d)^2/\nu]^{-(\nu + 1)/2}`.

    An outlier costs the logarithm of its distance: not the square as under
    :class:`~pyro_vae.likelihoods.NormalLikelihood`, nor the distance as under
    :class:`~pyro_vae.likelihoods.LaplaceLikelihood`. A density; ``min_scale`` bounds it as there.

    Args:
        latent_dim: number of latent dimensions L.
        data_shape: shape of one datum.
        net: builds the decoder, ``net((latent_dim,), data_shape)``, which returns the loc.
        scale: ``"global"``, one learned scale s; ``"pixel"``, one learned per entry of the datum; ``"network"``, one
            per entry that depends on z, for which the network returns twice the channels; or a fixed number.
            The standard deviation is :math:`s \sqrt{\nu / (\nu - 2)}`.
        min_scale: lower limit of a learned scale, in units of the data.
        df: degrees of freedom :math:`\nu`: ``"global"``, one learned for all entries, from 2.05 to 166 and at the start
            5; or a fixed number above 1. Few give heavy tails, many a normal distribution.

    Shape:
        ``(*batch, latent_dim)`` to a distribution with batch shape ``batch`` and event shape ``data_shape``.

    Raises:
        ValueError: a scale that is not positive, or df of 1 or less, for which there is no mean.

    References:
        Student-t variational autoencoder for robust density estimation (Takahashi et al., 2018).
        https://doi.org/10.24963/ijcai.2018/374

    Example:
        >>> import torch
        >>> from pyro_vae.likelihoods import StudentTLikelihood
        >>> StudentTLikelihood(2, (5,), scale=0.1, df=4.0)(torch.zeros(7, 2)).stddev[0, 0]
        tensor(0.1414)
    """

    def __init__(
        self,
        latent_dim: int,
        data_shape: Shape,
        *,
        net: NetworkFactory = MLP,
        scale: LearnedScale | float = "global",
        min_scale: float = 0.01,
        df: Literal["global"] | float = "global",
    ) -> None:
        super().__init__(latent_dim, data_shape, net=net, scale=scale, min_scale=min_scale)
        self.fixed_df = None if isinstance(df, str) else float(df)
        if isinstance(df, str):
            check_choice("StudentTLikelihood", "df", df, ("global",), "Or use a number")
            self.raw_df = nn.Parameter(torch.zeros(()))
        else:
            require(1 < df < float("inf"), "StudentTLikelihood", "df must be finite and above 1", f"df={df}")

    def family(self, loc: Tensor, scale: Tensor) -> TorchDistribution:
        return StudentT(self.df(), loc, scale)

    def df(self) -> Tensor:
        """The degrees of freedom, ``()``."""
        if self.fixed_df is not None:
            return self.offset.new_tensor(self.fixed_df)
        return 2 + 3 * (4 * torch.tanh(self.raw_df / 4)).exp()
