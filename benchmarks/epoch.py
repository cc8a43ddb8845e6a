"""Seconds per epoch of a whole training, with shuffling and dynamic binarization: fit, Pyro, torch, pythae, NumPyro.

    python benchmarks/epoch.py --root data --repeats 7 --out epoch.json

The model is that of ``speed.py``, an MLP VAE 784-400-50, at batch 128. Every candidate trains on all images in a new
random order: those of Pyro and torch by a ``DataLoader`` whose batches are binarized at random, pythae by its own
trainer on images that are binarized once, as its examples do, NumPyro by the jitted epoch of its example. "bare steps"
are as many steps of the compiled engine on batches that are ready. Candidates alternate; medians and quartiles.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pyro
import torch
from baselines import LR, by_hand, svi
from images import load, pool
from our_engines import engine_candidate
from programs import PROGRAMS, Pair
from report import environment, headline, spread, table
from timing import Candidate, OtherLoad, log, quartiles
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import fit
from pyro_vae.data import ImageSet

REFERENCES = ("Pyro SVI, DataLoader", "bare steps")
Epoch = Callable[[], float]
"""Trains for at least one epoch and returns the seconds per epoch."""


def ours(pair: Pair, images: ImageSet, batch: int, *, engine: Any, epochs: int = 2) -> Epoch:
    images = ImageSet(images.images.reshape(len(images), *pair.data_shape), max_value=images.max_value, dynamic=True)

    def epoch() -> float:
        """Without the first, in which the programs are checked and recorded."""
        trained = copy.deepcopy(pair)
        options = {"batch_size": batch, "engine": engine, "objective": pair.objective()}
        result = fit(trained.model, trained.guide, images, epochs=1 + epochs, **options)
        return sum(record["seconds"] for record in result.history[1:]) / epochs

    return epoch


def bare(pair: Pair, images: ImageSet, batch: int) -> Epoch:
    candidate = engine_candidate("compiled", pair, pool(images, batch, pair.data_shape), engine="compiled")
    steps = range(-(-len(images) // batch))
    candidate.run(range(10))
    return lambda: timed(lambda: candidate.run(steps))


def loaded(make: Callable[[Tensor], Candidate | None], images: ImageSet, batch: int) -> Epoch:
    """Steps on the binarized batches of a ``DataLoader``."""
    loader = DataLoader(TensorDataset(images.images.flatten(1)), batch, shuffle=True)
    candidate = make(images.images[:batch].flatten(1).float().unsqueeze(0))
    assert candidate is not None
    assert candidate.step is not None
    step = candidate.step

    def epoch() -> None:
        for (u,) in loader:
            step((torch.rand(u.shape) < u / images.max_value).float())

    return lambda: timed(epoch)


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def pythae(pair: Pair, images: ImageSet, batch: int) -> Epoch:
    """Its VAE with the networks of ``pair``, trained by its ``BaseTrainer``."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(pair.guide.net.layers)

        def forward(self, x: Tensor) -> ModelOutput:
            loc, log_scale = self.net(x.flatten(1)).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=2 * log_scale)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(pair.model.likelihood.net.layers)

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.net(z).sigmoid().unflatten(-1, (1, 28, 28)))

    logging.getLogger("pythae").setLevel(logging.WARNING)
    x = images.batch(torch.arange(len(images)), dtype=torch.float32).reshape(-1, 1, 28, 28)
    data = BaseDataset(x, torch.zeros(len(x)))
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=pair.guide.latent_dim, reconstruction_loss="bce")

    def epoch() -> float:
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as null, redirect_stderr(null):
            options = {"num_epochs": 2, "per_device_train_batch_size": batch, "learning_rate": LR, "no_cuda": True}
            trainer = BaseTrainer(
                VAE(config, Encoder(), Decoder()), data, training_config=BaseTrainerConfig(folder, **options)
            )
            trainer.prepare_training()
            return min(timed(lambda: trainer.train_step(1)) for _ in range(2))

    return epoch


def numpyro(pair: Pair, images: ImageSet, batch: int) -> Epoch:
    """The jitted epoch of NumPyro's example ``vae.py``: gather, binarize and update in one loop."""
    import jax
    import numpyro
    from jax import lax, random
    from numpyro_baseline import mlp

    model, guide = mlp(pair)
    grey = jax.numpy.asarray(images.images.flatten(1).float().numpy() / images.max_value)
    steps = len(grey) // batch
    program = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(LR), numpyro.infer.Trace_ELBO())
    state = {"svi": program.init(random.PRNGKey(0), grey[:batch]), "key": random.PRNGKey(1)}

    @jax.jit
    def train(svi_state: Any, key: Any, order: Any) -> Any:
        def body(i: Any, value: Any) -> Any:
            total, svi_state = value
            x = random.bernoulli(random.fold_in(key, i), grey[lax.dynamic_slice_in_dim(order, i * batch, batch)])
            svi_state, loss = program.update(svi_state, x.astype(float))
            return total + loss, svi_state

        return lax.fori_loop(0, steps, body, (0.0, svi_state))

    def epoch() -> None:
        state["key"], key = random.split(state["key"])
        _, state["svi"] = jax.block_until_ready(train(state["svi"], key, random.permutation(key, len(grey))))

    epoch()
    return lambda: timed(epoch) * (-(-len(grey) // batch) / steps)  # the last, smaller batch is left out


def candidates(pair: Pair, images: ImageSet, batch: int, chosen: Sequence[str] | None) -> dict[str, Epoch]:
    """The candidates of these names, or all that are installed, and the references."""
    made = {
        "Pyro SVI, DataLoader": lambda: loaded(
            lambda x: svi("", pair, x, pair.pyro_loss, validate=True), images, batch
        ),
        "torch by hand, DataLoader": lambda: loaded(lambda x: by_hand("", pair, x), images, batch),
        "pythae": lambda: pythae(pair, images, batch),
        "NumPyro jitted epoch": lambda: numpyro(pair, images, batch),
        "pyro_vae eager": lambda: ours(pair, images, batch, engine="eager"),
        "pyro_vae compiled": lambda: ours(pair, images, batch, engine="compiled"),
        "bare steps": lambda: bare(pair, images, batch),
    }
    built = {}
    for name, make in made.items():
        if chosen and name not in chosen and name not in REFERENCES:
            continue
        try:
            built[name] = make()
        except ImportError as error:
            log(f"without {name}: {error}")
    return built


def summary(seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    reference, steps = (seconds[name] for name in REFERENCES)
    return [
        {
            "name": name,
            "seconds": quartiles(values),
            "times_pyro": quartiles(a / b for a, b in zip(reference, values, strict=True)),
            "of_steps": quartiles(b / a for a, b in zip(steps, values, strict=True)),
        }
        for name, values in seconds.items()
    ]


def main(argv: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", help="folder with MNIST/raw (default: scikit-learn's digits, enlarged)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=400)
    parser.add_argument("--num_data", type=int, default=50_000, help="images (%(default)s)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--candidates", nargs="+", help="names of candidates beside the references (all)")
    parser.add_argument("--date", help="date of the record (default: today)")
    parser.add_argument("--out", type=Path, help="JSON file for the record")
    options = parser.parse_args(None if argv is None else list(argv))
    name, images = load(options.root)
    images = images.subset(slice(options.num_data))
    torch.manual_seed(0)
    pair = PROGRAMS["mlp"](width=options.width, latent_dim=50)
    built = candidates(pair, images, options.batch, options.candidates)
    seconds: dict[str, list[float]] = {name: [] for name in built}
    others = []
    for number in range(options.repeats):
        load_of_others = OtherLoad()
        for name_ in [*list(built)[number % len(built) :], *list(built)[: number % len(built)]]:
            seconds[name_].append(built[name_]())
        others.append(load_of_others.share())
        log(f"repeat {number + 1}: " + ", ".join(f"{k} {v[-1]:.2f} s" for k, v in seconds.items()))
    pyro.clear_param_store()
    record = environment(options.date, torch.device("cpu"))
    record["protocol"] = {"data": name, "num_data": len(images), "batch": options.batch, "width": options.width}
    record |= {"repeats": options.repeats, "others": max(others), "candidates": summary(seconds)}
    rows = [
        [r["name"], spread(r["seconds"]), spread(r["times_pyro"], "{:.2f}"), spread(r["of_steps"], "{:.2f}")]
        for r in record["candidates"]
    ]
    header = ["candidate", "seconds per epoch", "x Pyro", "of bare steps"]
    text = f"{headline(record)}\n\n{table(header, rows)}\n\nother programs: at most {max(others):.0%} of the processor"
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    log(text)


if __name__ == "__main__":
    main()
