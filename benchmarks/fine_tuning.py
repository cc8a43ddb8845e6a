"""Test errors on MNIST of classifiers on the encoder of a VAE trained without labels, and of one trained from scratch.

    python benchmarks/fine_tuning.py --root data
    python benchmarks/fine_tuning.py --root data --counts 100 --draws 2     # a trial

The VAE is that of the zoo, whose training saw all images without their labels. Per draw, the labelled images are of
every class equally many, and the same for all three classifiers. Images are grey levels, not binarized.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path

import torch
from record import RESULTS, machine
from tabulate import tabulate
from timing import log

from pyro_vae import MNIST, zoo
from pyro_vae.evaluation import mean_interval
from pyro_vae.features import fine_tune

ENCODERS = ("scratch", "frozen", "tuned")
COUNTS = (100, 600, 1000, 3000)


def errors(vae: torch.nn.Module, data: MNIST, epochs: int) -> dict[str, float]:
    """Test error of each classifier in %, for one draw of labels."""
    splits = data.load()
    rows = (splits.train.labels >= 0).nonzero().squeeze(1)
    x, y = splits.train.unpaired().batch(rows), splits.train.labels[rows]
    test = splits.test.batch(slice(None))
    test = test[0] if isinstance(test, tuple) else test
    options = {"num_classes": 10, "epochs": epochs, "engine": "eager", "seed": data.label_seed}
    fitted = {encoder: fine_tune(vae, x, y, encoder=encoder, **options) for encoder in ENCODERS}
    return {name: 100 * float((c.predict(test) != splits.test.labels).float().mean()) for name, c in fitted.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of MNIST")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="numbers of labelled images")
    parser.add_argument("--draws", type=int, default=5, help="draws of labels")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS / "fine-tuning.json")
    args = parser.parse_args()
    vae, rows, table = zoo.load("mnist-vae-50"), [], []
    for count in args.counts:
        for draw in range(args.draws):
            data = MNIST(args.root, binarize="none", labels=count, label_seed=draw)
            rows.append({"labels": count, "draw": draw, **errors(vae, data, args.epochs)})
            log(str(rows[-1]))
        drawn = {name: torch.tensor([r[name] for r in rows if r["labels"] == count]) for name in ENCODERS}
        drawn |= {f"scratch - {name}": drawn["scratch"] - drawn[name] for name in ENCODERS[1:]}
        means = {name: mean_interval(values.tolist()) for name, values in drawn.items()}
        table.append({"labels": count, **{name: f"{m.mean:.2f} +- {m.margin:.2f}" for name, m in means.items()}})
    print(tabulate(table, headers="keys"))
    settings = {"vae": "mnist-vae-50", "epochs": args.epochs, "test error": "%, mean and 95% interval over draws"}
    content = {"rows": rows, "table": table, "settings": settings, "date": str(date.today()), "machine": machine()}
    args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
