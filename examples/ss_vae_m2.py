"""M2: a classifier of digits from a hundred labelled and a thousand unlabelled images, as a Pyro model and guide.

The model is p(y) p(z) p(x | y, z), with a class y and a style z; the guide is the classifier q(y | x) and q(z | x, y).
One call takes labelled and unlabelled images together; for the latter y is summed over. For comparison the same
classifier is trained on the labelled images alone.

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

from pyro_vae import MNIST, Digits, SemiSupervisedVAE, fit, guides, likelihoods, models, objectives, priors
from pyro_vae.evaluation import classification, mean_interval
from pyro_vae.networks import MLP, ContextNetwork

NUM_CLASSES = 10


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def m2(train, args):
    """p(y) p(z) p(x | y, z) with q(y | x) q(z | x, y); one hidden layer in each network."""
    shape, hidden = train.data_shape, (args.width,)
    net = partial(ContextNetwork, context_dim=NUM_CLASSES, net=partial(MLP, hidden=()), hidden=hidden)
    return SemiSupervisedVAE(
        priors.StandardNormalPrior(args.latent_dim),
        likelihoods.BernoulliLikelihood(args.latent_dim, shape, net=net).initialise_mean(train.mean()),
        guides.DiagonalNormalGuide(shape, args.latent_dim, net=net),
        guides.CategoricalGuide(shape, NUM_CLASSES, net=partial(MLP, hidden=hidden)),
        classification_weight=models.classification_weight(len(train), args.labels, alpha=args.alpha),
    )


def train_classifier(classifier, train, args, seed):
    """Maximum likelihood on the labelled images alone, 2,000 steps, which is far beyond convergence."""
    labelled = train.subset((train.labels >= 0).nonzero().squeeze(-1))
    optimizer = Adam(classifier.parameters(), lr=args.lr)
    schedule = CosineAnnealingLR(optimizer, T_max=2000)
    torch.manual_seed(seed)
    for _ in range(2000):
        logits = classifier.net(labelled.batch(slice(None))).squeeze(-2)  # a new binarization
        loss = torch.nn.functional.cross_entropy(logits, labelled.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def one_draw(seed, args):
    """Train the classifier alone and M2 with the labels chosen by the seed, and evaluate both."""
    choice = {"labels": args.labels, "label_seed": seed}
    splits = (MNIST(args.root, **choice) if args.root else Digits(**choice)).load()
    torch.manual_seed(seed)
    alone, vae = m2(splits.train, args), m2(splits.train, args)
    fit(
        vae.model,
        vae.guide,
        splits.train,
        epochs=args.epochs,
        batch_size=args.batch_size,
        objective=objectives.EnumeratedELBO(),
        optimizer=partial(Adam, lr=args.lr),
        lr_schedule=partial(CosineAnnealingLR, T_max=args.epochs),
        seed=seed,
    )
    train_classifier(alone.classifier, splits.train, args, seed)
    results = [classification(model, splits.test) for model in (alone.eval(), vae)]
    print(f"draw {seed}: " + ", ".join(f"{result.error_rate:.2f}%" for result in results), flush=True)
    return vae, splits, results


def main(argv=None):
    parser = argparse.ArgumentParser(description="M2 against its classifier alone.")
    parser.add_argument("--labels", type=positive, default=100, help="labelled images (%(default)s)")
    parser.add_argument(
        "--draws", type=positive, default=2, help="choices of the labelled images, one training each (%(default)s)"
    )
    parser.add_argument("--epochs", type=positive, default=60, help="passes over the data (%(default)s)")
    parser.add_argument("--batch-size", type=positive, default=50, help="images per step (%(default)s)")
    parser.add_argument("--latent-dim", type=positive, default=5, help="dimensions of the style z (%(default)s)")
    parser.add_argument("--width", type=positive, default=100, help="width of the hidden layers (%(default)s)")
    parser.add_argument("--alpha", type=float, default=1.0, help="weight of the classification term (%(default)s)")
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate of Adam (%(default)s)")
    parser.add_argument("--root", help="folder with MNIST/raw (default: scikit-learn's digits)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="save figures of the last draw to this folder")
    args = parser.parse_args(argv)

    print("test error of the classifier on the labels alone, and of M2")
    draws = [one_draw(seed, args) for seed in range(args.draws)]
    errors = [[result.error_rate for result in results] for _, _, results in draws]
    alone, both = zip(*errors, strict=True)
    print(f"labels alone: {mean_interval(alone)}")
    print(f"M2:           {mean_interval(both)}")
    print(f"difference:   {mean_interval([a - b for a, b in errors])}")
    print(draws[-1][2][1])

    if args.out:
        from pyro_vae.plotting import analogies, confusion_matrix, reliability_diagram  # loads matplotlib

        vae, splits, (_, result) = draws[-1]
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
