"""Images that fool a classifier, and a generative model that is not fooled: p-values instead of confidence.

A classifier of digits and M2, which contains such a classifier, are trained on the same images. For each class an image
is then made by gradient ascent on log q(y | x) of each classifier. Both name the wanted class with certainty, and so
does Bayes' rule with M2's p(x, y): given that an image is a digit, these are the most probable ones. That they are no
digits shows in p(x), whose statistics are compared with those of held-out digits. Recorded with --epochs 40, the
median of the largest class probability (classifier, M2) and what is rejected at p <= 0.01::

    test digits                  0.973, 0.976      3.03%
    fooling the classifier       1.000, 0.989    100.00%
    fooling the classifier of M2 1.000, 0.999    100.00%
    noise                        0.885, 0.976    100.00%
    inverted                     0.937, 0.995    100.00%
    rotated                      0.997, 0.969     99.66%

The rate of the test digits is 1% on average over calibration sets; 200 images calibrate it here, so that it lies
between 0.1 and 2.8% for 95% of these sets, and the share of 297 test digits between 0 and 3.4%.

Run it::

    python examples/fooled.py
    python examples/fooled.py --epochs 200 --out figures
    python examples/fooled.py --root data --width 500
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from torch.optim import Adam

from pyro_vae import MNIST, Digits, SemiSupervisedVAE, fit, guides, likelihoods, models, objectives, priors
from pyro_vae.data import ImageSet
from pyro_vae.evaluation import OutlierDetector, class_posterior
from pyro_vae.experiments.outlier_data import KINDS, made_outliers
from pyro_vae.networks import MLP, ContextNetwork

NUM_CLASSES, LEVEL = 10, 0.01


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def m2(train, args):
    """p(y) p(z) p(x | y, z) with q(y | x) q(z | x, y)."""
    shape, hidden = train.data_shape, (args.width,)
    net = partial(ContextNetwork, context_dim=NUM_CLASSES, net=partial(MLP, hidden=()), hidden=hidden)
    return SemiSupervisedVAE(
        priors.StandardNormalPrior(args.latent_dim),
        likelihoods.BernoulliLikelihood(args.latent_dim, shape, net=net).initialise_mean(train.mean()),
        guides.DiagonalNormalGuide(shape, args.latent_dim, net=net),
        guides.CategoricalGuide(shape, NUM_CLASSES, net=partial(MLP, hidden=hidden)),
        classification_weight=models.classification_weight(len(train), args.labels),
    )


def train_classifier(classifier, train, epochs):
    """Maximum likelihood of the known labels."""
    optimizer = Adam(classifier.parameters(), lr=3e-3)
    known = train.subset((train.labels >= 0).nonzero().squeeze(-1))
    for _ in range(20 * epochs):
        logits = classifier.net(known.batch(slice(None))).squeeze(-2)
        loss = torch.nn.functional.cross_entropy(logits, known.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def fooling(classifier, shape, steps=500):
    """For each class a binary image, by gradient ascent on log q(y | x) from noise; gradients pass the rounding."""
    logits = torch.randn(NUM_CLASSES, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = Adam([logits], lr=0.05)
    for _ in range(steps):
        grey = logits.sigmoid()
        x = (grey > 0.5).float() + grey - grey.detach()
        loss = torch.nn.functional.cross_entropy(classifier.net(x).squeeze(-2), torch.arange(NUM_CLASSES))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (logits.detach() > 0).float()


def describe(name, classifier, vae, detector, images, show=False):
    """Print confidence, p(y | x) and p-values of images; return the share that is rejected."""
    x = images.batch(slice(None)) if isinstance(images, ImageSet) else images
    q = classifier.net(x).softmax(-1).squeeze(-2).detach()
    bayes = class_posterior(vae.model, vae.guide, x, num_classes=NUM_CLASSES, num_samples=20).probabilities()
    result = detector(x)
    p, rejected = result.p_value(), float((result.p_value() <= LEVEL).double().mean())
    for i in range(len(x)) if show else ():
        log_p = -float(result.score("log_likelihood")[i])
        print(f"  class {i}: classifier {q[i, i]:.3f}, M2 {bayes[i, i]:.3f}, log p(x) {log_p:7.1f}, p = {p[i]:.4f}")
    confidence = f"{float(q.max(-1).values.median()):.3f}, {float(bayes.max(-1).values.median()):.3f}"
    log_p = -float(result.score("log_likelihood").mean())
    print(f"{name:<28} {confidence}   {log_p:8.1f}   {rejected:7.2%}", flush=True)
    return rejected


def main(argv=None):
    parser = argparse.ArgumentParser(description="Images that fool classifiers, rejected by p-values.")
    parser.add_argument("--labels", type=positive, default=500, help="labelled images (%(default)s)")
    parser.add_argument("--epochs", type=positive, default=60, help="passes over the data (%(default)s)")
    parser.add_argument("--latent-dim", type=positive, default=5, help="dimensions of the style z (%(default)s)")
    parser.add_argument("--width", type=positive, default=100, help="width of the hidden layers (%(default)s)")
    parser.add_argument("--validation", type=positive, default=300, help="images that calibrate p-values (%(default)s)")
    parser.add_argument("--root", help="folder with MNIST/raw (default: scikit-learn's digits)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="save a figure to this folder")
    args = parser.parse_args(argv)
    if args.validation < 150:
        parser.error(f"--validation must be at least 150, got {args.validation}")

    options = {"labels": args.labels, "validation": args.validation}
    splits = (MNIST(args.root, **options) if args.root else Digits(**options)).load()
    torch.manual_seed(0)
    vae, alone = m2(splits.train, args), m2(splits.train, args).classifier
    training = {"batch_size": 50, "objective": objectives.EnumeratedELBO(), "optimizer": partial(Adam, lr=3e-3)}
    fit(vae.model, vae.guide, splits.train, epochs=args.epochs, **training)
    train_classifier(alone, splits.train, args.epochs)
    detector = OutlierDetector(vae.model, vae.guide, splits.validation, num_samples=50)

    classifiers = {"classifier": alone, "classifier of M2": vae.classifier}
    made = {name: fooling(classifier, splits.data_shape) for name, classifier in classifiers.items()}
    print("images                       median largest q(y | x), p(y | x)   mean log p(x)   rejected at 1%")
    describe("test digits", alone, vae, detector, splits.test)
    for name, images in made.items():
        describe(f"fooling the {name}", classifiers[name], vae, detector, images, show=True)
    for kind in KINDS:
        describe(kind, alone, vae, detector, made_outliers(kind, splits.test))

    if args.out:
        from pyro_vae.plotting import image_grid  # loads matplotlib

        args.out.mkdir(parents=True, exist_ok=True)
        caption = "Images that both classifiers take for 0 to 9: first row the classifier, second row M2's"
        image_grid(torch.cat(list(made.values())), columns=10, caption=caption).savefig(args.out / "fooled.png")
        print(args.out / "fooled.png")


if __name__ == "__main__":
    main()
