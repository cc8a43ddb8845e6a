"""Density ratios of two sets of samples, learned by a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus
from torch.nn.utils.parametrizations import spectral_norm as normalised

from pyro_vae._core.checks import CheckedArguments, check_arguments, check_positive, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae.networks import MLP, NetworkFactory, Shape, build_network

_EPS = 1e-8
_SMOOTH = partial(MLP, hidden=(256, 256), activation="silu")


class RatioNetwork(CheckedArguments, nn.Module):
    r"""Estimate of a log density ratio, :math:`r(z) \approx \log p(z) - \log q(z)`.

    It is the logit of a classifier that separates samples of p from samples of q, :math:`D = \sigma(r)`, trained on
    equally many of both.

    Args:
        in_shape: shape of one sample.
        net: builds the network, ``net(in_shape, (1,))``.
        spectral_norm: whether every linear layer and convolution is divided by its largest singular value, which bounds
            the slope of r.

    Shape:
        ``(*batch, *in_shape)`` to ``(*batch,)``, in nats.

    References:
        Density ratio estimation in machine learning (Sugiyama, Suzuki and Kanamori, 2012), chapter 4.
        Spectral normalization for generative adversarial networks (Miyato et al., 2018), eq. 8, by
        :func:`torch.nn.utils.parametrizations.spectral_norm`. https://arxiv.org/abs/1802.05957

    Example:
        >>> import torch
        >>> RatioNetwork((5,))(torch.zeros(3, 7, 5)).shape
        torch.Size([3, 7])
    """

    def __init__(
        self,
        in_shape: Shape,
        *,
        net: NetworkFactory = _SMOOTH,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        self.net = build_network(net, self.in_shape, (1,))
        if spectral_norm:
            for module in [m for m in self.net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]:
                normalised(module)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z).squeeze(-1)


class RatioTraining(CheckedArguments):
    r"""Steps of Adam on the logistic loss of a ratio network, as operations on tensors, which every engine records.

    The loss :math:`E_p[\log(1 + e^{-r})] + E_q[\log(1 + e^r)]` is smallest at the log density ratio. It is 2 log 2 if
    r = 0, and 0 if p and q do not overlap.

    Args:
        network: the network, which is trained in place by :meth:`step` alone; its parameters require no gradient.
        lr: learning rate.
        betas: decay of Adam's two averages.
        gradient_penalty: weight w of :math:`\tfrac{w}{2} E\|\nabla r\|^2` over the samples of both.
        weight: weight of the term of q, 1 for the log density ratio; :meth:`step` then takes as many samples of q for
            one of p.

    Raises:
        ValueError: a rate that is not positive, a decay outside [0, 1), or a negative penalty.

    References:
        Adam: a method for stochastic optimization (Kingma and Ba, 2015), algorithm 1. https://arxiv.org/abs/1412.6980
        Which training methods for GANs do actually converge? (Mescheder, Geiger and Nowozin, 2018), eq. 9 and 10, for
        the penalty. https://arxiv.org/abs/1801.04406
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        gradient_penalty: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        owner = type(self).__name__
        check_positive(owner, lr=lr)
        check_positive(owner, at_least_zero=True, gradient_penalty=gradient_penalty)
        require(any(True for _ in network.parameters()), owner, "network must have parameters", "none")
        valid = len(betas) == 2 and all(0 <= beta < 1 for beta in betas)
        require(valid, owner, "betas must be two numbers in [0, 1)", f"betas={tuple(betas)}")
        self.network, self.lr, self.gradient_penalty = network.requires_grad_(False).eval(), lr, gradient_penalty
        self.beta1, self.beta2 = betas
        check_positive("RatioTraining", weight=weight)
        self.weight = weight
        self._parameters = dict(network.named_parameters())
        self._means, self._squares = ([torch.zeros_like(p) for p in self._parameters.values()] for _ in range(2))
        self._count = torch.zeros((), dtype=torch.float64, device=next(network.parameters()).device)

    @property
    def num_steps(self) -> int:
        """Number of steps taken."""
        return int(self._count)

    def tensors(self) -> list[Tensor]:
        """Everything that :meth:`step` changes."""
        network = [*self._parameters.values(), *self.network.buffers()]
        return [*network, *self._means, *self._squares, self._count]

    def step(self, p: Tensor, q: Tensor, *, rate: float = 1.0) -> Tensor:
        """Take a step; the samples are constants.

        Args:
            p: samples of the density in the numerator.
            q: equally many of that in the denominator.
            rate: factor of the learning rate.

        Returns:
            The loss without the penalty, before the step.
        """
        with torch.enable_grad():
            parameters = {name: p.detach().requires_grad_() for name, p in self._parameters.items()}
            z = torch.cat([p.detach(), q.detach()]).requires_grad_(self.gradient_penalty > 0)  # (2 N, *in_shape)
            self.network.train()
            logits = functional_call(self.network, parameters, (z,))
            self.network.eval()
            loss = softplus(-logits[: len(p)]).mean() + self.weight * softplus(logits[len(p) :]).mean()
            total = loss + self._penalty(logits, z)
            gradients = torch.autograd.grad(total, list(parameters.values()))
        self._update(gradients, rate)
        return loss.detach()

    def _penalty(self, logits: Tensor, z: Tensor) -> Tensor | float:
        if not self.gradient_penalty:
            return 0.0
        slopes = torch.autograd.grad(logits.sum(), z, create_graph=True)[0]
        return self.gradient_penalty * slopes.square().sum() / len(z)  # for as many, the two means halved

    @torch.no_grad()
    def _update(self, gradients: Sequence[Tensor], rate: float) -> None:
        self._count.add_(1)
        corrections = [1 - beta**self._count for beta in (self.beta1, self.beta2)]
        state = zip(self._parameters.values(), gradients, self._means, self._squares, strict=True)
        for parameter, gradient, mean, square in state:
            mean.copy_(mean + (1 - self.beta1) * (gradient - mean))
            square.copy_(self.beta2 * square + (1 - self.beta2) * gradient * gradient)
            first, second = (correction.to(parameter.dtype) for correction in corrections)
            parameter.copy_(parameter - self.lr * rate * (mean / first) / ((square / second).sqrt() + _EPS))


def fit_ratio(
    network: RatioNetwork,
    p: Tensor,
    q: Tensor,
    *,
    num_steps: int = 2000,
    batch_size: int = 256,
    lr: float = 2e-3,
    betas: Sequence[float] = (0.9, 0.999),
    gradient_penalty: float = 0.0,
    seed: int = 0,
) -> list[float]:
    """Train a ratio network on samples of two densities, with balanced batches and a rate that falls linearly to 0.

    Args:
        network: trained in place, on the device and in the dtype of its parameters.
        p: samples of the density in the numerator, ``(N, *in_shape)``.
        q: samples of that in the denominator, ``(M, *in_shape)``; M may differ from N.
        num_steps: number of steps.
        batch_size: number of samples of each density per step, drawn with replacement.
        lr, betas, gradient_penalty: see :class:`RatioTraining`.
        seed: seed of the batches; the global random state is not changed.

    Returns:
        The loss of each step, in nats; 2 log 2 = 1.386 means that p and q cannot be separated.

    Raises:
        ValueError: the samples have another shape, or are not finite.

    References:
        See :class:`RatioNetwork`.

    Example:
        >>> import torch
        >>> p, q = torch.randn(1000, 2) + 1, torch.randn(1000, 2)
        >>> losses = fit_ratio(RatioNetwork((2,)), p, q, num_steps=50)
        >>> losses[0] > losses[-1]
        True
    """
    check_arguments(fit_ratio, locals(), num_steps=1, batch_size=1)
    for name, samples in (("p", p), ("q", q)):
        shape, rule = tuple(samples.shape), f"{name} must have shape (N, {', '.join(map(str, network.in_shape))})"
        require(shape[1:] == network.in_shape and shape[0] > 0, "fit_ratio", rule, f"{shape}")
        finite = not samples.is_meta and bool(torch.isfinite(samples).all())
        require(finite, "fit_ratio", f"{name} must be finite", "others", "Remove them")
    like, losses = next(network.parameters()), []
    p, q = p.to(like), q.to(like)
    training = RatioTraining(network, lr=lr, betas=betas, gradient_penalty=gradient_penalty)
    with isolated_rng(seed):
        for step in range(num_steps):
            rows = (torch.randint(len(samples), (batch_size,), device=like.device) for samples in (p, q))
            batches = [samples[index] for samples, index in zip((p, q), rows, strict=True)]
            losses.append(training.step(*batches, rate=1 - step / num_steps))
    return torch.stack(losses).tolist()
