"""M2: a digit classifier from a hundred labels and a thousand images without, as a Pyro model and guide.

The model draws a class y and a style z, and from both the image: p(y) p(z) p(x | y, z). Its guide is the classifier
q(y | x) and q(z | x, y). One call takes labelled and unlabelled images together; for the latter y is summed over.
Beside it the same classifier is trained on the labelled images alone.

Run it::

    python examples/ss_vae_m2.py
    python examples/ss_vae_m2.py --draws 10 --epochs 200 --out figures
    python examples/ss_vae_m2.py --root data --labels 1000 --width 500 --epochs 200 --draws 1
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_vae import MNIST, Digits, SemiSupervisedVAE, fit
from pyro_vae.evaluation import classification, mean_interval
from pyro_vae.guides import CategoricalGuide, DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.models import classification_weight
from pyro_vae.networks import MLP, ContextNetwork
from pyro_vae.objectives import EnumeratedELBO
from pyro_vae.priors import StandardNormalPrior

CLASSES = 10


def positive(text):
    """A positive integer."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def m2(train, args):
    """p(y) p(z) p(x | y, z) with q(y | x) q(z | x, y); one hidden layer in each network."""
    shape, hidden = train.data_shape, (args.width,)
    net = partial(ContextNetwork, context_dim=CLASSES, net=partial(MLP, hidden=()), hidden=hidden)
    return SemiSupervisedVAE(
        StandardNormalPrior(args.latent_dim),
        BernoulliLikelihood(args.latent_dim, shape, net=net).initialise_mean(train.mean()),
        DiagonalNormalGuide(shape, args.latent_dim, net=net),
        CategoricalGuide(shape, CLASSES, net=partial(MLP, hidden=hidden)),
        classification_weight=classification_weight(len(train), args.labels, alpha=args.alpha),
    )


def on_labels_alone(classifier, train, args, seed):
    """The classifier by maximum likelihood on the labelled images alone: 2,000 steps, far beyond its last gain."""
    labelled = train.subset((train.labels >= 0).nonzero().squeeze(-1))
    optimizer = Adam(classifier.parameters(), lr=args.lr)
    schedule = CosineAnnealingLR(optimizer, T_max=2000)
    torch.manual_seed(seed)
    for _ in range(2000):
        logits = classifier.net(labelled.batch(slice(None))).squeeze(-2)  # pixels drawn anew
        loss = torch.nn.functional.cross_entropy(logits, labelled.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def one_draw(seed, args):
    """Test errors in % of the classifier alone and of M2, with labels chosen by the seed."""
    data = (
        MNIST(args.root, labels=args.labels, label_seed=seed)
        if args.root
        else Digits(labels=args.labels, label_seed=seed)
    )
    splits = data.load()
    torch.manual_seed(seed)
    alone, vae = m2(splits.train, args), m2(splits.train, args)
    fit(
        vae.model,
        vae.guide,
        splits.train,
        epochs=args.epochs,
        batch_size=args.batch_size,
        objective=EnumeratedELBO(),
        optimizer=partial(Adam, lr=args.lr),
        lr_schedule=partial(CosineAnnealingLR, T_max=args.epochs),
        seed=seed,
    )
    on_labels_alone(alone.classifier, splits.train, args, seed)
    results = [classification(model, splits.test) for model in (alone.eval(), vae)]
    print(f"draw {seed}: " + ", ".join(f"{result.error_rate:.2f}%" for result in results), flush=True)
    return vae, splits, results


def main(argv=None):
    parser = argparse.ArgumentParser(description="M2 on the digits, against its classifier alone.")
    parser.add_argument("--labels", type=positive, default=100, help="labelled images (%(default)s)")
    parser.add_argument("--draws", type=positive, default=2, help="choices of the labels (%(default)s)")
    parser.add_argument("--epochs", type=positive, default=60, help="passes over the data (%(default)s)")
    parser.add_argument("--batch-size", type=positive, default=50, help="images per step (%(default)s)")
    parser.add_argument("--latent-dim", type=positive, default=5, help="dimensions of the style z (%(default)s)")
    parser.add_argument("--width", type=positive, default=100, help="of the hidden layers (%(default)s)")
    parser.add_argument("--alpha", type=float, default=1.0, help="weight of the classification (%(default)s)")
    parser.add_argument("--lr", type=float, default=3e-3, help="Adam's learning rate (%(default)s)")
    parser.add_argument("--root", help="where MNIST lies; without it the digits")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="save figures of the last draw to this folder")
    args = parser.parse_args(argv)

    print("test error of the classifier on the labels alone, and of M2")
    found = [one_draw(seed, args) for seed in range(args.draws)]
    errors = [[result.error_rate for result in results] for _, _, results in found]
    alone, both = zip(*errors, strict=True)
    print(f"labels alone: {mean_interval(alone)}")
    print(f"M2:           {mean_interval(both)}")
    print(f"difference:   {mean_interval([a - b for a, b in errors])}")
    print(found[-1][2][1])

    if args.out:
        from pyro_vae.plotting import (
            analogies,  # loads matplotlib
            confusion_matrix,
            reliability_diagram,
        )

        vae, splits, (_, result) = found[-1]
        args.out.mkdir(parents=True, exist_ok=True)
        figures = {
            "analogies": analogies(vae, splits.test.batch(slice(10)), splits.test.labels[:10]),
            "confusion": confusion_matrix(result),
            "reliability": reliability_diagram(result),
        }
        for name, figure in figures.items():
            figure.savefig(args.out / f"{name}.png")
            print(args.out / f"{name}.png")


if __name__ == "__main__":
    main()
