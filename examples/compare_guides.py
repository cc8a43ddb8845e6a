"""One trained model, many guides: the gain in ELBO of richer posteriors at fixed log p(x).

A VAE is trained with the diagonal normal guide. Then the model is frozen, and every guide of the package, including a
new diagonal one, is fitted to it from scratch with the same budget. log p(x) is the same for all of them: a higher ELBO
means a better posterior, and the log-likelihood bounds should agree up to their tightness.

Without ``--run`` the script trains a model of scikit-learn's digits, offline. Run it::

    python examples/compare_guides.py --out comparison
    python examples/compare_guides.py --run runs/mnist --root data --images 500 --epochs 10 --out comparison-mnist

With ``--out``, the result of each guide is saved at once, and a second start resumes after the last one.

References:
    Inference suboptimality in variational autoencoders (Cremer et al., 2018). https://arxiv.org/abs/1801.03558
"""

import argparse
import tempfile
import time
from functools import partial
from inspect import isabstract, signature
from pathlib import Path

import torch
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_vae import guides, log_likelihood, refit_guide
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.experiments.experiment import load_run, train
from pyro_vae.networks import MLP
from pyro_vae.plotting import caption_of, guide_comparison
from pyro_vae.training import RunFolder

OPTIONS = {  # other than the defaults, for some guides in several variants
    "LowRankNormalGuide": [{"rank": 5}],
    "MixtureOfNormalsGuide": [{"num_components": 5}],
    "SylvesterFlowGuide": [{"kind": "orthogonal"}, {"kind": "householder"}, {"kind": "triangular"}],
}
# Every guide of the package with a density on the whole latent space, the diagonal normal first.
CLASSES = [cls for cls in map(vars(guides).get, guides.__all__) if not isabstract(cls)]
CLASSES = [cls for cls in CLASSES if not (cls.discrete or cls.implicit or cls.deterministic or cls.bounded)]
CLASSES.sort(key=lambda cls: cls is not guides.DiagonalNormalGuide)
GUIDES = {
    " ".join([cls.__name__, *map(str, options.values())]): (cls, options)
    for cls in CLASSES
    for options in OPTIONS.get(cls.__name__, [{}])
}


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def main(argv=None):
    parser = argparse.ArgumentParser(description="The gain of richer posteriors on one trained model.")
    parser.add_argument("--run", type=Path, help="run folder of the trained model (default: train one of digits)")
    parser.add_argument("--root", help="folder of the run's data set, if it has moved since training")
    names = ", ".join(GUIDES)
    parser.add_argument("--guides", nargs="+", choices=GUIDES, default=list(GUIDES), metavar="NAME", help=names)
    parser.add_argument("--epochs", type=positive, default=100, help="epochs of every guide (%(default)s)")
    parser.add_argument("--hidden", type=positive, default=200, help="width of the encoders (%(default)s)")
    parser.add_argument("--images", type=positive, default=200, help="test images (%(default)s)")
    parser.add_argument("--num-samples", type=positive, default=5000, help="samples per image (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and training (%(default)s)")
    parser.add_argument(
        "--engine", choices=["auto", "eager", "compiled"], default="auto", help="engine of training (%(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="save results, table and figure to this folder")
    args = parser.parse_args(argv)

    trained = load_run(args.run, root=args.root, device="cpu") if args.run else train_digits(args)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = {
            name: compare(name, trained, folder / f"{name.replace(' ', '-')}.json", args) for name in args.guides
        }
        table = [line(name, result, next(iter(results.values()))) for name, result in results.items()]
        print("\n".join(table))
        (folder / "table.txt").write_text("\n".join(table) + "\n")
        if len(results) > 1:
            first = next(iter(results.values()))
            caption = caption_of({**first.protocol, "guide": f"guides of {args.epochs} epochs, model fixed"})
            guide_comparison(results, caption=caption).savefig(folder / "guides.png")


def build(name, vae, net):
    """A guide with the encoder ``net``, which a semi-amortized guide has in the guide that it improves."""
    cls, options = GUIDES[name]
    inner = partial(guides.DiagonalNormalGuide, net=net)
    encoder = {"net": net} if "net" in signature(cls).parameters else {"guide": inner}
    return cls(vae.data_shape, vae.latent_dim, **encoder, **options)


def train_digits(args):
    """A VAE on the digits, trained with the diagonal guide."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run")
        return train(latent_dim=10, epochs=args.epochs, seed=args.seed, device="cpu", engine=args.engine, run=run)


def compare(name, trained, path, args):
    """Fit one guide to the frozen model and evaluate it, unless an earlier start has saved its result."""
    if not path.exists():
        vae, splits, test = trained.vae, trained.splits, trained.splits.test.subset(slice(args.images))
        torch.manual_seed(args.seed)
        guide = build(name, vae, net=partial(MLP, hidden=(args.hidden, args.hidden)))
        start = time.perf_counter()
        options = {"lr_schedule": partial(CosineAnnealingLR, T_max=args.epochs), "clip_norm": 200.0}
        options |= {"epochs": args.epochs, "seed": args.seed, "engine": args.engine}
        fitted, _ = refit_guide(vae, guide, splits.train, optimizer=partial(Adam, lr=1e-3), **options)
        cost = {"parameters": sum(p.numel() for p in guide.parameters()), "draw_ms": draw_ms(guide, test)}
        cost |= {"guide": name, "fit_epochs": args.epochs, "fit_seconds": time.perf_counter() - start}
        pair, model = (fitted.model, fitted.guide), {"likelihood": type(vae.likelihood).__name__}
        protocol = {**splits.protocol, **model, **cost}
        result = log_likelihood(*pair, test, num_samples=args.num_samples, protocol=protocol, engine=args.engine)
        result.save(path)
        print(f"{name}: {cost['fit_seconds']:.0f} s", flush=True)
    return LogLikelihood.load(path)


def draw_ms(guide, test, repeats=20):
    """Median milliseconds of sampling once for each of 100 images, encoder included."""
    x, seconds = test.batch(range(min(100, len(test)))), []
    with torch.no_grad():
        for _ in range(repeats):
            start = time.perf_counter()
            guide.posterior(x).rsample()
            seconds.append(time.perf_counter() - start)
    return 1e3 * float(torch.tensor(seconds).median())


def line(name, result, first):
    """A row of the table; the error of the gain in ELBO over the first guide is that of the paired difference."""
    (gain, error), p = result.gain(first, "elbo"), result.protocol
    return (
        f"{name:<34} ELBO {result.mean('elbo'):8.3f} (gain {gain:+.3f} +- {error:.3f})  "
        f"log-likelihood {result.mean():8.3f} +- {result.monte_carlo_error():.3f}  "
        f"gap {result.mean() - result.mean('elbo'):6.3f}  k > 0.7: {result.untrusted():4.0%}  "
        f"{p['parameters']:>8} parameters  {p['fit_seconds']:6.0f} s  {p['draw_ms']:6.1f} ms/draw"
    )


if __name__ == "__main__":
    main()
