"""A run on one page: a self-contained HTML file of what is known of it, and of what is not."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from matplotlib.figure import Figure

from pyro_vae import plotting
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.version import __version__
from pyro_vae.evaluation import Classification, LogLikelihood, Result
from pyro_vae.experiments import html
from pyro_vae.experiments.methods import METHODS
from pyro_vae.experiments.report_rows import bound_row, bracket, class_row, flat, nats, rows_of
from pyro_vae.experiments.results import results_of, same_data
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.models import VAE, LabelledVAE
from pyro_vae.training import RunFolder

R = TypeVar("R", bound=Result)
_SHOWS = {
    "importance": "Importance bound against the number of samples",
    "ais": "How far the annealed chains agree, and their acceptance",
    "harmonic": "R-hat and Pareto k of the harmonic estimates",
    "sandwich": "Lower and upper bounds of log p(x) of simulated data, and the gap between them",
    "gaps": "Bars of approximation and amortization gap",
    "diagnostics": "Bars of the parts of the ELBO",
    "calibration": "Histograms of ranks of the true z among draws of the guide",
    "predictive": "Histograms of predictive probabilities, a panel per statistic",
    "classification": "Accuracy against confidence, and how many data have which",
    "class_posterior": "Histogram of the entropy of p(y | x)",
}
WORST = 10
"""How many of the worst-explained images are shown."""


def report(run: RunFolder, trained: TrainedModel) -> str:
    """The page of a run: protocol, training, bounds, gaps, diagnostics, pictures, and what was not evaluated.

    Nothing is evaluated for it: it shows the results that lie in the run folder, and says how to make those that do
    not. The page needs no other file and fetches none. Same folder, same page.

    Args:
        run: the run folder.
        trained: the same run, loaded; its data and model give the pictures.

    Returns:
        HTML.

    Raises:
        ValueError: a result in the folder is damaged.
    """
    return html.page(f"pyro_vae run: {run.path.resolve().name}", _Page(run, trained, results_of(run)).sections())


@dataclass(frozen=True)
class _Page:
    run: RunFolder
    trained: TrainedModel
    results: Mapping[Path, Result]

    def sections(self) -> list[tuple[str, str, str]]:
        made = (
            ("protocol", "Protocol", self._protocol()),
            ("training", "Training", self._training()),
            ("classes", "Classes", self._classes()),
            ("bounds", "Bounds on the log-likelihood", self._bounds()),
            ("gaps", "Where the gap comes from", self._plain("gaps")),
            ("diagnostics", "What the latent space does", self._diagnostics()),
            ("images", "Reconstructions and samples", self._images()),
            ("worst", "Worst-explained images", self._worst()),
            ("missing", "Not evaluated yet", self._missing()),
        )
        return [part for part in made if part[2]]

    def of(self, *methods: str) -> dict[Path, Result]:
        """The results of some methods."""
        return {path: result for path, result in self.results.items() if result.method in methods}

    def main(self) -> LogLikelihood | None:
        """The importance estimate that stands for the run: of the test part, of most data, with most samples."""
        found = [r for r in self.of("importance").values() if isinstance(r, LogLikelihood)]

        def rank(r: LogLikelihood) -> tuple[bool, int, int]:
            return r.protocol.get("split") == "test", len(r), int(r.protocol["num_samples"])

        return max(found, key=rank, default=None)

    def _protocol(self) -> str:
        data = html.table(["entry", "value"], rows_of(self.trained.protocol), caption="Data and model")
        config = yaml.safe_load(self.run.config())
        options = html.table(["option", "value"], rows_of(flat(config)), caption="Every option of pyro-vae train")
        written = html.paragraph(f"Written by pyro_vae {__version__} from {self.run.path}.")
        return data + html.folded("Configuration", options) + written

    def _training(self) -> str:
        history = self.run.metrics()
        if not history:
            return html.paragraph("The run has no record of its training.")
        keys: list[str] = [
            key for key in ("elbo", "validation_elbo", "reconstruction", "kl", "loss") if key in history[-1]
        ]
        last = [["last epoch", str(history[-1].get("epoch", "")), *(nats(history[-1][key]) for key in keys)]]
        if "validation_error" in history[-1]:
            keys.append("validation error [%]")
            last[0].append(f"{history[-1]['validation_error']:.2f}")
        table = html.table(["", "epoch", *(key.replace("_", " ") for key in keys)], last, caption="In nats per datum")
        drawn = _draw(plotting.training_curves, history, alt="Training curves", caption="ELBO and its parts by epoch.")
        return table + html.pictures(drawn)

    def _classes(self) -> str:
        found = [r for r in self.of("classification").values() if isinstance(r, Classification)]
        header = ["by", "part", "data", "error [%]", "over data", "cross entropy", "Brier score", "calibration error"]
        caption = "Errors of the classes, with their standard error; cross entropy in nats per datum"
        told = [html.table(header, [class_row(r) for r in found], caption=caption)] if found else []
        told += [html.commands(str(r).splitlines()) for r in self.of("class_posterior").values()]
        drawn = self._drawn("classification", "class_posterior")
        for r in found:
            drawn += _draw(plotting.confusion_matrix, r, alt="Confusion matrix", caption=_says(r))
        if isinstance(self.trained.vae, LabelledVAE):
            x = self._batch(range(min(10, len(self.trained.splits.test))))
            line = "Test images, and their style in every class; framed: the class that the classifier tells."
            drawn += _draw(plotting.analogies, self.trained.vae, x, alt="Analogies", caption=line)
        return "".join(told) + html.pictures(drawn)

    def _bounds(self) -> str:
        rows = [bound_row(r) for r in self.of("importance", "ais", "harmonic").values()]
        header = [
            "method",
            "part",
            "data",
            "how",
            "log p(x)",
            "Monte Carlo",
            "over data",
            "bits/dim",
            "ELBO",
            "flagged",
        ]
        caption = "Estimates of log p(x), standard errors and ELBO, in nats per datum; flagged: Pareto k above 0.7"
        parts = [html.table(header, rows, caption=caption)] if rows else []
        parts += [html.paragraph(advice, note=True) for advice in self._advice("importance", "ais", "harmonic")]
        parts += [html.paragraph(bracket(r)) for r in self.of("sandwich").values()]
        return "".join(parts) + html.pictures(self._bound_pictures())

    def _bound_pictures(self) -> list[str]:
        main, annealed, drawn = self.main(), list(self.of("ais").values()), []
        if main is not None:
            drawn += _draw(plotting.bound_curve, main, alt="Importance bound against samples", caption=_says(main))
            drawn += _draw(plotting.pareto_shapes, main, alt="Histogram of Pareto k", caption=_says(main))
        for group in _alike(annealed):
            beside = None if main is None else _first(main, group[0])
            told = {"alt": "AIS bound against distributions", "caption": _says(group[-1])}
            drawn += _draw(plotting.annealed_bounds, group, importance=beside, **told)
            if beside is not None:
                told = {"alt": "AIS minus importance estimate, per datum", "caption": _says(group[-1])}
                drawn += _draw(plotting.bound_differences, group[-1], beside, **told)
        return drawn + self._drawn("ais", "sandwich", "harmonic")

    def _plain(self, *methods: str) -> str:
        """The summary of each result as text, with its figure."""
        told = [html.commands(str(result).splitlines()) for result in self.of(*methods).values()]
        return "".join(told) + html.pictures(self._drawn(*methods))

    def _diagnostics(self) -> str:
        found = self.of("diagnostics")
        units = [
            p for r in found.values() for p in _draw(plotting.active_units, r, alt="Active units", caption=_says(r))
        ]
        return self._plain("diagnostics", "calibration", "predictive") + html.pictures(units)

    def _drawn(self, *methods: str) -> list[str]:
        those = self.of(*methods).items()
        return [
            p for path, r in those for p in _draw(plotting.result_figure, r, alt=_SHOWS[r.method], caption=_says(r))
        ]

    def _advice(self, *methods: str) -> list[str]:
        found = ((path, getattr(r, "advice", str)()) for path, r in self.of(*methods).items())
        return [f"{path.name}: {advice}" for path, advice in found if advice]

    def _images(self) -> str:
        vae, x, drawn = self.trained.vae, self._batch(range(min(10, len(self.trained.splits.test)))), []
        if isinstance(vae, VAE):
            line = "Test images, and the mean of p(x | z) at one draw of q(z | x) below each."
            drawn += _draw(plotting.reconstructions, vae, x, alt="Test images and reconstructions", caption=line)
        line = "Means of p(x | z) at draws of the prior."
        drawn += _draw(plotting.samples, vae, alt="Samples of the model", caption=line)
        return html.pictures(drawn) or html.paragraph("The data are no images.")

    def _worst(self) -> str:
        main = self.main()
        if main is None or main.protocol.get("split") != "test" or len(main) > len(self.trained.splits.test):
            return ""
        order = main.log_likelihood.argsort()[:WORST]
        rows = [
            [str(i), *(nats(t[i]) for t in (main.log_likelihood, main.standard_error, main.elbo))]
            for i in order.tolist()
        ]
        labels = self.trained.splits.test.labels
        for row, i in zip(rows, order.tolist(), strict=True):
            row += [f"{float(main.pareto_k[i]):.2f}", "-" if labels is None else str(int(labels[i]))]
        caption = "Test images with the lowest estimate of log p(x), worst first; in nats, Pareto k without unit"
        table = html.table(["number", "log p(x)", "standard error", "ELBO", "Pareto k", "class"], rows, caption=caption)
        if not isinstance(self.trained.vae, VAE):
            return table
        line = "The same images from left to right, and a reconstruction below each."
        x = self._batch(order.tolist())
        drawn = _draw(plotting.reconstructions, self.trained.vae, x, alt="The worst-explained images", caption=line)
        return table + html.pictures(drawn)

    def _batch(self, rows: Sequence[int]) -> torch.Tensor:
        """Test images as the model takes them."""
        like = next(self.trained.vae.parameters())
        with isolated_rng(0):
            return self.trained.splits.test.batch(list(rows), dtype=like.dtype).to(like.device)

    def _missing(self) -> str:
        there = {type(r) for r in self.results.values() if r.protocol.get("split") == "test"}
        wanted = [m for m in METHODS.values() if not set(m.results) <= there and m.applies(self.trained.vae)]
        if not wanted:
            return ""
        lines = [f"pyro-vae evaluate {shlex.quote(str(self.run.path))} --method {m.name}" for m in wanted]
        told = "Of the test part there is no result of " + ", ".join(m.name for m in wanted) + ". These make them:"
        return html.paragraph(told) + html.commands(lines)


def _draw(function: Callable[..., Figure], *args: Any, alt: str, caption: str, **options: Any) -> list[str]:
    """The picture; none where the numbers or the data do not allow it."""
    buffer = io.BytesIO()
    try:
        function(*args, **options).savefig(buffer, format="png", metadata={"Software": None})
    except ValueError:
        return []
    return [html.picture(buffer.getvalue(), alt, caption)]


def _alike(results: Sequence[Result]) -> list[list[Result]]:
    """Groups that differ in the number of distributions and the seed alone, each sorted by that number."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        key = {k: v for k, v in result.protocol.items() if k not in ("num_distributions", "sample_seed")}
        groups.setdefault(repr(key), []).append(result)
    return [sorted(group, key=lambda r: int(r.protocol["num_distributions"])) for group in groups.values()]


def _first(result: R, other: Result) -> R | None:
    """The result for the data of the other, where those are its first ones."""
    if len(other) > len(result):
        return None
    rows: dict[str, Any] = {name: values[: len(other)] for name, values in result.tensors().items()}
    cut = replace(result, **rows, protocol={**result.protocol, "num_data": other.protocol.get("num_data")})
    return cut if same_data(cut, other) else None


def _says(result: Result) -> str:
    return result.caption()
