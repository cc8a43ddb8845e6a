"""The same training in NumPyro: its jitted update step by step, and a jitted loop over the pool, which is fastest."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from programs import Pair
from timing import Candidate
from torch import Tensor, nn

LR = 1e-3


def numpyro_candidate(name: str, pair: Pair, pool: Tensor, *, loop: bool) -> Candidate | None:
    """The candidate; None if NumPyro is not installed or the program is not implemented in it."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("JAX_PLATFORMS", pool.device.type)
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")  # float32 on GPUs too, as torch by default
    try:
        import jax
        import numpyro
    except ImportError:
        return None
    if pair.name not in ("mlp", "hvae"):
        return None
    model, guide = mlp(pair) if pair.name == "mlp" else hvae(pair)
    batches = jax.numpy.asarray(pool.cpu().numpy())
    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(LR), numpyro.infer.Trace_ELBO())
    run = looped(svi, batches) if loop else stepwise(svi, batches)
    return candidate(name, run, svi.init(jax.random.PRNGKey(0), batches[0]))


def candidate(name: str, run: Callable[..., Any], initial: Any) -> Candidate:
    """A candidate of ``run(state, steps)``, which returns the next state and the losses."""
    import jax

    current = {"state": initial, "draw": 0}

    def reset() -> None:
        current["draw"] += 1
        current["state"] = initial._replace(rng_key=jax.random.fold_in(initial.rng_key, current["draw"]))

    def advance(steps: range) -> list[float]:
        current["state"], losses = run(current["state"], steps)
        jax.block_until_ready((current["state"], losses))
        return list(losses)

    return Candidate(name, advance, reset, seeded=False)


def stepwise(svi: Any, pool: Any) -> Callable[..., Any]:
    import jax

    update, batches = jax.jit(svi.update), list(pool)

    def run(state: Any, steps: range) -> tuple[Any, Any]:
        losses = []
        for i in steps:
            state, loss = update(state, batches[i % len(batches)])
            losses.append(loss)
        return state, losses

    return run


def looped(svi: Any, pool: Any) -> Callable[..., Any]:
    import jax

    @jax.jit
    def scan(state: Any, order: Any, pool: Any) -> Any:
        return jax.lax.scan(lambda state, i: svi.update(state, pool[i]), state, order)

    return lambda state, steps: scan(state, jax.numpy.arange(steps.start, steps.stop) % len(pool), pool)


def weights(net: nn.Module) -> list[dict[str, Any]]:
    """The layers of one of the package's perceptrons."""
    import jax.numpy as jnp

    linear = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        return [{"w": jnp.asarray(m.weight.t().cpu().numpy()), "b": jnp.asarray(m.bias.cpu().numpy())} for m in linear]


def perceptron(layers: list[dict[str, Any]], x: Any) -> Any:
    import jax.numpy as jnp

    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


def sample_normal(site: str, layers: list[dict[str, Any]], x: Any) -> Any:
    """Sample from a normal with loc and log scale from the perceptron."""
    import jax.numpy as jnp
    import numpyro
    from numpyro.distributions import Normal

    loc, log_scale = jnp.split(perceptron(layers, x), 2, axis=-1)
    return numpyro.sample(site, Normal(loc, jnp.exp(log_scale)).to_event(1))


def mlp(pair: Pair) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The model and guide of ``programs.mlp``."""
    import numpyro
    from numpyro.distributions import Bernoulli, Normal

    encoder, decoder, latent_dim = weights(pair.guide), weights(pair.model), pair.guide.latent_dim

    def model(x: Any) -> None:
        layers = numpyro.param("decoder", decoder)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", Normal(0.0, 1.0).expand((latent_dim,)).to_event(1))
            numpyro.sample("x", Bernoulli(logits=perceptron(layers, z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        layers = numpyro.param("encoder", encoder)
        with numpyro.plate("data", len(x)):
            sample_normal("z", layers, x)

    return model, guide


def hvae(pair: Pair) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The model and guide of ``programs.hvae``."""
    import numpyro
    from numpyro.distributions import Bernoulli, Normal

    initial = {
        f"{part}_{level}": weights(getattr(module, level))
        for part, module in (("model", pair.model), ("guide", pair.guide))
        for level in ("lower", "upper")
    }
    top_dim = len(pair.model.loc)

    def model(x: Any) -> None:
        lower, upper = (numpyro.param(f"model_{k}", initial[f"model_{k}"]) for k in ("lower", "upper"))
        with numpyro.plate("data", len(x)):
            z2 = numpyro.sample("z2", Normal(0.0, 1.0).expand((top_dim,)).to_event(1))
            z1 = sample_normal("z1", upper, z2)
            numpyro.sample("x", Bernoulli(logits=perceptron(lower, z1)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        lower, upper = (numpyro.param(f"guide_{k}", initial[f"guide_{k}"]) for k in ("lower", "upper"))
        with numpyro.plate("data", len(x)):
            sample_normal("z2", upper, sample_normal("z1", lower, x))

    return model, guide
