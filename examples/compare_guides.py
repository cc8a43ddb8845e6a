"""One trained model, many guides: what a richer posterior buys, with log p(x) held fixed.

A VAE is trained with the diagonal normal guide. Then the model is frozen, and every guide of the package, a new
diagonal one among them, is fitted to it from scratch with the same budget. The model's log p(x) is the same for all of
them: a higher ELBO is a better posterior, and the log-likelihood bounds should agree, up to the looseness of each.

Without ``--run`` the model is one of scikit-learn's digits, trained here, offline. Run it::

    python examples/compare_guides.py --out comparison
    python examples/compare_guides.py --run runs/mnist --root data --images 500 --epochs 10 --out comparison-mnist

With ``--out``, every guide's result is kept as it is found, and a second start goes on where the first stopped.

References:
    Inference suboptimality in variational autoencoders (Cremer et al., 2018). https://arxiv.org/abs/1801.03558
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import torch
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_vae import (
    MLP,
    VAE,
    BernoulliLikelihood,
    DiagonalNormalGuide,
    Digits,
    LogLikelihood,
    StandardNormalPrior,
    fit,
    guides,
    log_likelihood,
    refit_guide,
)
from pyro_vae.files import write_atomically



def semi_amortized(data_shape, latent_dim, *, net):
    """The diagonal guide, improved for every datum by gradient steps."""
    inner = partial(guides.DiagonalNormalGuide, net=net)
    return guides.SemiAmortizedGuide(data_shape, latent_dim, guide=inner)


GUIDES = {
    "diagonal normal": guides.DiagonalNormalGuide,
    "low-rank normal": partial(guides.LowRankNormalGuide, rank=5),
    "full-rank normal": guides.FullRankNormalGuide,
    "mixture of normals": partial(guides.MixtureOfNormalsGuide, num_components=5),
    "Householder flow": guides.HouseholderFlowGuide,
    "planar flow": guides.PlanarFlowGuide,
    "radial flow": guides.RadialFlowGuide,
    "Sylvester flow, orthogonal": partial(guides.SylvesterFlowGuide, kind="orthogonal"),
    "Sylvester flow, Householder": partial(guides.SylvesterFlowGuide, kind="householder"),
    "Sylvester flow, triangular": partial(guides.SylvesterFlowGuide, kind="triangular"),
    "inverse autoregressive flow": guides.IAFGuide,
    "spline flow": guides.SplineFlowGuide,
    "auxiliary variable": guides.AuxiliaryGuide,
    "semi-amortized": semi_amortized,
    "Hamiltonian": guides.HMCGuide,
}


def positive(text):
    """A positive integer."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def main(argv=None):
    parser = argparse.ArgumentParser(description="What a richer posterior buys on one trained model.")
    parser.add_argument("--run", type=Path, help="run folder with the trained model; default: digits, trained here")
    parser.add_argument("--root", help="where the run's data set lies, if not where it lay in training")
    parser.add_argument("--guides", nargs="+", choices=GUIDES, default=list(GUIDES), metavar="NAME", help="(all)")
    parser.add_argument("--epochs", type=positive, default=100, help="of every guide (%(default)s)")
    parser.add_argument("--hidden", type=positive, default=200, help="width of the encoders (%(default)s)")
    parser.add_argument("--images", type=positive, default=200, help="test images (%(default)s)")
    parser.add_argument("--num-samples", type=positive, default=5000, help="samples per image (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--engine", choices=["auto", "eager", "compiled"], default="auto", help="(%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep results, table and figure there")
    args = parser.parse_args(argv)

    vae, splits = load(args) if args.run else train_digits(args)
    test = splits.test.subset(slice(args.images))
    found = {}
    for name in args.guides:
        kept = args.out / f"{name.replace(' ', '-').replace(',', '').lower()}.json" if args.out else None
        if kept is None or not kept.exists():
            found[name] = compare(name, vae, splits, test, args)
            if kept is not None:
                args.out.mkdir(parents=True, exist_ok=True)
                found[name].save(kept)
        found[name] = found[name] if kept is None else LogLikelihood.load(kept)
        print(line(name, found[name], next(iter(found.values()))), flush=True)
    if args.out and len(found) > 1:
        save(args, found)


def load(args):
    """The model and the data of a run."""
    from pyro_vae.experiment import load_run

    trained = load_run(args.run, root=args.root, device="cpu")
    return trained.vae, trained.splits


def train_digits(args):
    """A VAE on the digits, trained with the diagonal guide."""
    torch.manual_seed(args.seed)
    splits = Digits(binarize="dynamic").load()
    net = partial(MLP, hidden=(args.hidden,))
    likelihood = BernoulliLikelihood(10, splits.data_shape, net=net).start_at(splits.train.mean())
    vae = VAE(StandardNormalPrior(10), likelihood, DiagonalNormalGuide(splits.data_shape, 10, net=net))
    fit(vae.model, vae.guide, splits.train, epochs=args.epochs, optimizer=partial(Adam, lr=1e-3), seed=args.seed)
    return vae, splits


def compare(name, vae, splits, test, args):
    """Fit one guide to the frozen model and evaluate it; the protocol holds its cost too."""
    torch.manual_seed(args.seed)
    guide = GUIDES[name](vae.data_shape, vae.latent_dim, net=partial(MLP, hidden=(args.hidden, args.hidden)))
    start = time.perf_counter()
    fitted, _ = refit_guide(
        vae,
        guide,
        splits.train,
        epochs=args.epochs,
        optimizer=partial(Adam, lr=1e-3),
        lr_schedule=partial(CosineAnnealingLR, T_max=args.epochs),
        clip_norm=200.0,
        seed=args.seed,
        engine=args.engine,
    )
    cost = {"guide": name, "epochs": args.epochs, "parameters": sum(p.numel() for p in guide.parameters())}
    cost |= {"training_seconds": time.perf_counter() - start, "draw_ms": draw_ms(guide, test), "fit_seed": args.seed}
    protocol = {**splits.protocol, "likelihood": type(vae.likelihood).__name__, **cost}
    return log_likelihood(
        fitted.model, fitted.guide, test, num_samples=args.num_samples, protocol=protocol, engine=args.engine
    )


def draw_ms(guide, test, repeats=20):
    """Milliseconds of one draw for each of 100 images, encoder included; the median."""
    x = test.batch(range(min(100, len(test))))
    seconds = []
    with torch.no_grad():
        for _ in range(repeats):
            start = time.perf_counter()
            guide.posterior(x).rsample()
            seconds.append(time.perf_counter() - start)
    return 1e3 * float(torch.tensor(seconds).median())


def line(name, result, first):
    """A row of the table; the gain in ELBO over the first guide has the standard error of the paired difference."""
    difference = result.elbo - first.elbo
    error = float(difference.std() / len(difference) ** 0.5)
    p = result.protocol
    return (
        f"{name:<28} ELBO {result.mean('elbo'):8.3f} (gain {float(difference.mean()):+.3f} +- {error:.3f})  "
        f"log-likelihood {result.mean():8.3f} +- {result.monte_carlo_error():.3f}  "
        f"gap {result.mean() - result.mean('elbo'):6.3f}  k > 0.7: {result.untrusted():4.0%}  "
        f"{p['parameters']:>8} parameters  {p['training_seconds']:6.0f} s  {p['draw_ms']:6.1f} ms/draw"
    )


def save(args, found):
    """The table and the figure of all guides."""
    from pyro_vae.plotting import caption_of, guide_comparison  # loads matplotlib

    first = next(iter(found.values()))
    table = "\n".join(line(name, result, first) for name, result in found.items()) + "\n"
    write_atomically(args.out / "table.txt", table.encode(), overwrite=True)
    summary = {name: result.summary() for name, result in found.items()}
    write_atomically(args.out / "summary.json", (json.dumps(summary, indent=1) + "\n").encode(), overwrite=True)
    caption = f"{caption_of(first.protocol)}, {len(first)} test images, {args.epochs} epochs per guide, model fixed"
    guide_comparison(found, caption=caption).savefig(args.out / "guides.png")
    print(f"figure: {args.out / 'guides.png'}")


if __name__ == "__main__":
    main()
