"""Leapfrog steps of Hamiltonian dynamics, as an invertible transform of position and momentum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from pyro_vae._core.checks import CheckedArguments, check_arguments, require


def gradient(function: Callable[[Tensor], Tensor], at: Tensor, *, create_graph: bool = True) -> Tensor:
    r"""The gradient :math:`\nabla_u \sum f(u)` within a forward pass, also if gradients are switched off.

    Args:
        function: from a tensor with the shape of ``at`` to values that are summed.
        at: u.
        create_graph: whether the gradient can be differentiated; never if gradients are switched off.

    Returns:
        A tensor with the shape of ``at``.

    Example:
        >>> import torch
        >>> with torch.no_grad():
        ...     gradient(lambda u: u**2, torch.tensor([1.0, 3.0]))
        tensor([2., 6.])
    """
    check_arguments(gradient, locals())
    create_graph = create_graph and torch.is_grad_enabled()
    with torch.enable_grad():
        point = at if create_graph and at.requires_grad else at.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(point).sum(), point, create_graph=create_graph)
    return slope


class Leapfrog(Transform, CheckedArguments):
    r"""Leapfrog steps on the energy :math:`-\log p(z) + v'v/2`, from (z, v) to (z, v).

    One step is :math:`v \leftarrow v + \frac{\epsilon}{2} \nabla \log p(z)`, :math:`z \leftarrow z + \epsilon v`,
    :math:`v \leftarrow \alpha_k (v + \frac{\epsilon}{2} \nabla \log p(z))`. Without tempering, :math:`\alpha_k = 1`, it
    preserves volume. The inverse reverses the steps. Both directions are differentiable, also in the parameters of p.

    Args:
        log_density: from z ``(*batch, L)`` to log p(z) up to a constant, ``batch``.
        step_size: ``(L,)``, the step epsilon of each dimension.
        log_tempering: ``(num_steps,)``, :math:`\log \alpha_k`; zeros for no tempering.

    Shape:
        ``(*batch, 2 L)``, z first.

    References:
        Markov chain Monte Carlo and variational inference: bridging the gap (Salimans, Kingma and Welling, 2015),
        section 3. https://arxiv.org/abs/1410.6460
        Hamiltonian variational auto-encoder (Caterini, Doucet and Sejdinovic, 2018), section 2.
        https://arxiv.org/abs/1805.11328

    Example:
        >>> import torch
        >>> leapfrog = Leapfrog(lambda z: -z.square().sum(-1) / 2, torch.tensor([0.1]), torch.zeros(5))
        >>> with torch.no_grad():
        ...     leapfrog(torch.tensor([1.0, 0.0]))  # near (cos 0.5, -sin 0.5)
        tensor([ 0.8775, -0.4790])
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, log_density: Callable[[Tensor], Tensor], step_size: Tensor, log_tempering: Tensor) -> None:
        vectors = step_size.dim() == log_tempering.dim() == 1 and step_size.device == log_tempering.device
        got = f"step_size={tuple(step_size.shape)}, log_tempering={tuple(log_tempering.shape)}"
        require(vectors, "Leapfrog", "step_size and log_tempering must be vectors on one device", got)
        # The cache gives the density of a sample without reversing the steps.
        super().__init__(cache_size=1)
        self.log_density, self.step_size, self.log_tempering = log_density, step_size, log_tempering

    def _call(self, x: Tensor) -> Tensor:
        z, v = x.chunk(2, -1)
        half = 0.5 * self.step_size
        slope = gradient(self.log_density, z)
        for log_alpha in self.log_tempering.unbind():
            v = v + half * slope
            z = z + self.step_size * v
            slope = gradient(self.log_density, z)
            v = (v + half * slope) * log_alpha.exp()
        return torch.cat([z, v], -1)

    def _inverse(self, y: Tensor) -> Tensor:
        z, v = y.chunk(2, -1)
        half = 0.5 * self.step_size
        slope = gradient(self.log_density, z)
        for log_alpha in reversed(self.log_tempering.unbind()):
            v = v * (-log_alpha).exp() - half * slope
            z = z - self.step_size * v
            slope = gradient(self.log_density, z)
            v = v - half * slope
        return torch.cat([z, v], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Log-determinant of the scaling of the momenta; the steps themselves preserve volume."""
        return (self.log_tempering.sum() * (x.shape[-1] // 2)).expand(x.shape[:-1])
