"""Objectives by their definitions, in plain torch on Pyro's traces, with the random numbers in the package's order.

Gradients are sums of derivatives at fixed draws and through them: no parameter is frozen, no gradient is hooked, and
the only plates are those of the particles and of the data.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pyro
import torch
from pyro import poutine
from torch.distributions import kl_divergence


def _trace(program, num, *args):
    return poutine.trace(pyro.plate("k", num, dim=-2)(program)).get_trace(*args)


def _drawn(trace):
    """The trace with constants for draws, for a replay at fixed values."""
    trace = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and isinstance(site["value"], torch.Tensor):
            trace.nodes[name] = {**site, "value": site["value"].detach()}
    return trace


def _sums(model_trace, guide_trace, shape):
    for trace in (model_trace, guide_trace):
        trace.compute_log_prob()
    parts = dict.fromkeys(("x", "p", "q", "r"), torch.zeros(shape))
    for trace, names in ((model_trace, "px"), (guide_trace, "qr")):
        for site in trace.nodes.values():
            if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample":
                parts[names[site["is_observed"]]] = parts[names[site["is_observed"]]] + site["log_prob"]
    joint = parts["x"] + parts["p"] - parts["r"]
    return SimpleNamespace(**parts, joint=joint, weight=joint - parts["q"], guide=guide_trace, model=model_trace)


def draws(model, guide, num, x):
    """K draws with their path."""
    q = _trace(guide, num, x)
    return _sums(_trace(poutine.replay(model, trace=q), num, x), q, (num, len(x)))


def fixed(model, guide, num, x, q):
    """The same draws as constants."""
    q = _trace(poutine.replay(guide, trace=_drawn(q)), num, x)
    return _sums(_trace(poutine.replay(model, trace=q), num, x), q, (num, len(x)))


def with_gradient(value, surrogate):
    return value.detach() + surrogate - surrogate.detach()


class Definition:
    """An objective from a function of model, guide, number of particles and data to minus the loss."""

    def __init__(self, function, num_particles, **options):
        self.function, self.num, self.options = function, num_particles, options

    def differentiable_loss(self, model, guide, x):
        return -self.function(model, guide, self.num, x, **self.options)


def iwae(model, guide, num, x):
    return (draws(model, guide, num, x).weight.logsumexp(0) - math.log(num)).sum()


def miwae(model, guide, num, x, num_batches=8):
    weight = draws(model, guide, num * num_batches, x).weight.reshape(num, num_batches, len(x))
    return (weight.logsumexp(0) - math.log(num)).mean(0).sum()


def renyi(model, guide, num, x, alpha=0.5):
    weight = draws(model, guide, num, x).weight
    return ((((1 - alpha) * weight).logsumexp(0) - math.log(num)) / (1 - alpha)).sum()


def sticking_the_landing(model, guide, num, x):
    d = draws(model, guide, num, x)
    score = fixed(model, guide, num, x, d.guide).q
    return with_gradient(d.weight.mean(0).sum(), (d.weight + score).mean(0).sum())


def doubly_reparameterized(model, guide, num, x):
    d = draws(model, guide, num, x)
    at = fixed(model, guide, num, x, d.guide)
    w = d.weight.detach().softmax(0)
    path = d.weight + at.q - at.joint
    return with_gradient((d.weight.logsumexp(0) - math.log(num)).sum(), (w * at.joint + w**2 * path).sum())


def score_function(model, guide, num, x, baseline="batch"):
    d = fixed(model, guide, num, x, draws(model, guide, num, x).guide)
    f = d.weight.detach()
    b = torch.zeros_like(f)
    for k in range(num):
        for i in range(len(x)):
            if baseline == "batch":
                b[k, i] = torch.stack([f[k, j] for j in range(len(x)) if j != i]).mean()
            elif baseline == "leave-one-out":
                b[k, i] = torch.stack([f[j, i] for j in range(num) if j != k]).mean()
    return with_gradient(f.mean(0).sum(), (d.joint + (f - b) * d.q).mean(0).sum())


def vimco(model, guide, num, x):
    d = fixed(model, guide, num, x, draws(model, guide, num, x).guide)
    f, bound = d.weight.detach(), d.weight.logsumexp(0) - math.log(num)
    surrogate = bound
    for k in range(num):
        others = torch.cat([f[:k], f[k + 1 :]])
        without = torch.cat([others, others.mean(0, keepdim=True)]).logsumexp(0) - math.log(num)
        surrogate = surrogate + (bound.detach() - without) * d.q[k]
    return with_gradient(bound.sum(), surrogate.sum())


def _asleep(model, guide, x):
    with torch.no_grad():
        p = poutine.trace(poutine.uncondition(model)).get_trace(x)
    q = poutine.trace(poutine.replay(guide, trace=_drawn(p))).get_trace(p.nodes["x"]["value"])
    return q.log_prob_sum()


def reweighted_wake_sleep(model, guide, num, x, wake=1.0):
    d = fixed(model, guide, num, x, draws(model, guide, num, x).guide)
    w = d.weight.detach().softmax(0)
    surrogate = (w * (d.joint + wake * d.q)).sum()
    if wake < 1:
        surrogate = surrogate + (1 - wake) * _asleep(model, guide, x)
    return with_gradient((d.weight.logsumexp(0) - math.log(num)).sum(), surrogate)


def wake_sleep(model, guide, num, x):
    d = fixed(model, guide, num, x, draws(model, guide, num, x).guide)
    surrogate = d.joint.mean(0).sum() + _asleep(model, guide, x)
    return with_gradient(d.weight.mean(0).sum(), surrogate)


def free_bits(model, guide, num, x, nats=0.5):
    d = draws(model, guide, num, x)
    kl = kl_divergence(d.guide.nodes["z"]["fn"].base_dist, d.model.nodes["z"]["fn"].base_dist)
    return d.x.mean(0).sum() - len(x) * kl.mean((0, 1)).clamp_min(nats).sum()


def beta_tc(model, guide, num, x, num_data=100, alpha=1.0, beta=6.0, gamma=1.0):
    d = draws(model, guide, num, x)
    q, z, total = d.guide.nodes["z"]["fn"].base_dist, d.guide.nodes["z"]["value"], 0.0
    for k in range(num):
        for i in range(len(x)):
            each = q.log_prob(z[k, i])[k]  # (B, L)
            log_q = each.sum(-1).logsumexp(0) - math.log(num_data * len(x))
            log_dims = (each.logsumexp(0) - math.log(num_data * len(x))).sum()
            kl = alpha * (d.q[k, i] - log_q) + beta * (log_q - log_dims) + gamma * (log_dims - d.p[k, i])
            total = total + (d.x[k, i] - kl) / num
    return total


def info_vae(model, guide, num, x, alpha=1.0, weight=10.0, kernel="imq", bandwidth=None):
    d = draws(model, guide, num, x)
    z, p = d.model.nodes["z"]["value"], d.model.nodes["z"]["fn"].expand((num, len(x)))
    v, n = p.rsample() if p.has_rsample else p.sample(), len(x)
    scale = 2 * (z.shape[-1] if bandwidth is None else bandwidth**2)

    def k(a, b):
        distance = (a - b).square().sum()
        return (-distance / scale).exp() if kernel == "rbf" else scale / (scale + distance)

    mmd = 0.0
    for j in range(num):
        for a in range(n):
            for b in range(n):
                if a != b:
                    mmd = mmd + (k(z[j, a], z[j, b]) + k(v[j, a], v[j, b])) / (n * (n - 1) * num)
                mmd = mmd - 2 * k(z[j, a], v[j, b]) / (n * n * num)
    elbo = d.x - (1 - alpha) * (d.q + d.r - d.p)
    return elbo.mean(0).sum() - n * (alpha + weight - 1) * mmd
