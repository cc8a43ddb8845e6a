"""A run on one self-contained HTML page: its results, its figures, and the commands for missing results."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from markupsafe import Markup

from pyro_vae import plotting
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.version import __version__
from pyro_vae.evaluation import (
    AnnealedLogLikelihood,
    Classification,
    LatentDiagnostics,
    LogLikelihood,
    OutlierScores,
    Result,
    Sandwich,
)
from pyro_vae.evaluation.caption import caption_of
from pyro_vae.experiments.commands import with_commands
from pyro_vae.experiments.methods import METHODS
from pyro_vae.experiments.report_markup import drawn, figures_of, html, text_of
from pyro_vae.experiments.report_rows import (
    BOUND_HEADER,
    CLASS_HEADER,
    bound_row,
    bracket,
    class_row,
    flat,
    nats,
    rows_of,
)
from pyro_vae.experiments.report_verdict import errors, following, headline, machine_of, origin, trust
from pyro_vae.experiments.results import RunResults, by_settings, first_rows, renewal, results_of
from pyro_vae.experiments.trained_model import TrainedModel
from pyro_vae.models import VAE, AutoregressiveModel, ConditionalVAE, LabelledVAE
from pyro_vae.plotting.conditional import class_context
from pyro_vae.training import RunFolder

R = TypeVar("R", bound=Result)
WORST = 10
"""Number of worst-explained images."""
_NO_LOWER_BOUNDS = ("harmonic", "codelength")


def report(run: RunFolder, trained: TrainedModel) -> str:
    """The page of a run: protocol, training, results by topic, images, and missing results.

    Nothing is evaluated: the page shows the results in the run folder and lists the commands for missing ones. It needs
    no other file. The same folder gives the same page.

    Args:
        run: the run folder.
        trained: the same run, loaded; its data and model give the images.

    Returns:
        HTML.

    Raises:
        ValueError: a result in the folder is damaged.
    """
    sections = _Report(run, trained, results_of(run)).sections()
    return str(html.page(f"pyro_vae run: {run.path.resolve().name}", sections))


@dataclass(frozen=True)
class _Report:
    run: RunFolder
    trained: TrainedModel
    entries: RunResults

    @property
    def results(self) -> dict[Path, Result]:
        """The results of the present weights, and those without a fingerprint."""
        return self.entries.current

    def sections(self) -> list[dict[str, Any]]:
        """Names, headings and contents of all sections that have a content."""
        contents = (
            ("verdict", "Verdict", self._verdict()),
            ("protocol", "Protocol", self._protocol()),
            ("training", "Training", self._training()),
            ("classes", "Classes", self._classes()),
            ("bounds", "Bounds on the log-likelihood", self._bounds()),
            ("gaps", "Inference gaps", self._plain("gaps")),
            ("diagnostics", "Latent space", self._diagnostics()),
            ("outliers", "Unlike the training data", self._plain("outliers")),
            ("other", "Other results", self._plain("other")),
            ("stale", "Stale results", self._stale()),
            ("images", "Reconstructions and samples", self._images()),
            ("worst", "Worst-explained images", self._worst()),
            ("missing", "Missing results", self._missing()),
        )
        return [{"name": n, "heading": h, "content": content} for n, h, content in contents if content]

    def of(self, topic: str) -> list[Result]:
        """The results on a topic."""
        return [result for result in self.results.values() if result.topic == topic]

    def kind(self, kind: type[R]) -> list[R]:
        """The results of a kind."""
        return [result for result in self.results.values() if isinstance(result, kind)]

    def main(self) -> LogLikelihood | None:
        """The run's main importance estimate: on the test split, of most data, with most samples."""

        def rank(r: LogLikelihood) -> tuple[bool, bool, int, int]:
            final = "weights" not in r.protocol
            return final, r.protocol.get("split") == "test", len(r), int(r.protocol["num_samples"])

        return max(self.kind(LogLikelihood), key=rank, default=None)

    def _verdict(self) -> Markup:
        of_test = [result for result in self.kind(Classification) if result.protocol.get("split") == "test"]
        others = [r for r in self.of("bounds") if r.method not in _NO_LOWER_BOUNDS]
        main = max(of_test, key=len, default=None) or self.main() or next(iter(others), None)
        lines = [] if main is None else [errors(main), trust(main, len(self.entries.stale))]
        commands = self._commands()
        command = next(iter(commands), "") if main is None else following(commands)
        parts = [html.headline(headline(main)), *map(html.paragraph, [*lines, origin(self.run)])]
        return Markup().join([*parts, *([html.paragraph("Next:"), html.code([command])] if command else [])])

    def _protocol(self) -> Markup:
        data = html.table(["entry", "value"], rows_of(self.trained.protocol), "Data and model")
        config = yaml.safe_load(self.run.config())
        options = html.table(["option", "value"], rows_of(flat(config)), "Every option of pyro-vae train")
        machine = html.table(["entry", "value"], rows_of(machine_of(self.run)), "Machine and versions of the training")
        written = html.paragraph(f"Written by pyro_vae {__version__} from {self.run.path}.")
        return data + machine + html.folded("Configuration", options) + written

    def _training(self) -> Markup:
        history = self.run.metrics()
        if not history:
            return html.paragraph("The run has no record of its training.")
        last = history[-1]
        keys = [key for key in ("elbo", "validation_elbo", "distortion", "rate", "loss") if key in last]
        cells = {key.replace("_", " "): nats(last[key]) for key in keys}
        if "validation_error" in last:
            cells["validation error [%]"] = f"{last['validation_error']:.2f}"
        row = ["last epoch", str(last.get("epoch", "")), *cells.values()]
        table = html.table(["", "epoch", *cells], [row], "In nats per datum")
        line = "ELBO, its terms and other metrics by epoch."
        return table + html.pictures(drawn(plotting.training_curves, history, alt="Training curves", caption=line))

    def _classes(self) -> Markup:
        classifications = self.kind(Classification)
        others = [result for result in self.of("classes") if not isinstance(result, Classification)]
        caption = "Classification errors with standard errors; cross entropy in nats per datum"
        content = html.table(CLASS_HEADER, list(map(class_row, classifications)), caption) if classifications else ""
        content = Markup(content) + Markup().join(text_of(result) for result in others)
        pictures = figures_of(self.of("classes"))
        for result in classifications:
            pictures += drawn(plotting.confusion_matrix, result, alt="Confusion matrix", caption=result.caption())
        if isinstance(self.trained.vae, LabelledVAE):
            line = "Test images, and their style in every class; a frame marks the predicted class."
            pictures += drawn(plotting.analogies, self.trained.vae, self._first(), alt="Analogies", caption=line)
        return content + html.pictures(pictures)

    def _bounds(self) -> Markup:
        estimates = [result for result in self.of("bounds") if not isinstance(result, Sandwich)]
        caption = "of log p(x), standard errors and ELBO, in nats per datum; flagged: Pareto k above 0.7"
        content = []
        for split, number in dict.fromkeys((r.protocol.get("split"), len(r)) for r in estimates):
            rows = [bound_row(r) for r in estimates if (r.protocol.get("split"), len(r)) == (split, number)]
            content.append(html.table(BOUND_HEADER, rows, f"{number} {split or ''} examples: estimates {caption}"))
        for path, result in self.results.items():
            if result.topic == "bounds":
                content += [html.note(f"{path.name}: {with_commands(note)}") for note in result.notes()]
        content += [html.paragraph(bracket(result)) for result in self.kind(Sandwich)]
        return Markup().join([*content, html.pictures(self._bound_figures())])

    def _bound_figures(self) -> list[Any]:
        main, pictures = self.main(), []
        if main is not None:
            line = main.caption()
            pictures += drawn(plotting.bound_curve, main, alt=main.alternative_text, caption=line)
            pictures += drawn(plotting.pareto_shapes, main, alt="Histogram of Pareto k", caption=line)
        for group in by_settings(self.kind(AnnealedLogLikelihood)):
            importance, longest = None if main is None else first_rows(main, group[0]), group[-1]
            text = {"alt": "AIS bound against distributions", "caption": longest.caption()}
            pictures += drawn(plotting.annealed_bounds, group, importance=importance, **text)
            if importance is not None:
                text["alt"] = "AIS minus importance estimate, per datum"
                pictures += drawn(plotting.bound_differences, longest, importance, **text)
        return pictures + figures_of([r for r in self.of("bounds") if not isinstance(r, LogLikelihood)])

    def _plain(self, topic: str) -> Markup:
        """Text and figure of each result on a topic."""
        texts = list(map(text_of, self.of(topic)))
        return Markup().join([*texts, html.pictures(figures_of(self.of(topic)))])

    def _diagnostics(self) -> Markup:
        units = []
        for result in self.kind(LatentDiagnostics):
            units += drawn(plotting.active_units, result, alt="Active units", caption=result.caption())
        return self._plain("diagnostics") + html.pictures(units)

    def _images(self) -> Markup:
        vae, pictures = self.trained.vae, []
        if isinstance(vae, VAE):
            line = "Test images; below each, the mean of p(x | z) at one sample of q(z | x)."
            text = {"alt": "Test images and reconstructions", "caption": line}
            pictures += drawn(plotting.reconstructions, vae, self._first(), **text)
        given = isinstance(vae, ConditionalVAE | AutoregressiveModel)
        context = class_context(vae, self.trained.splits.test.labels) if given else None
        if isinstance(vae, AutoregressiveModel):
            each = None if context is None else torch.arange(vae.context_shape[0], device=context.device)
            line = "Samples of the model." if each is None else "Samples of the model; a column for each class."
            pictures += drawn(plotting.samples, vae, context=each, alt="Samples of the model", caption=line)
            line = "Test images with their upper halves; below each, samples of the lower half given the upper one."
            text = {"alt": "Completions", "caption": line}
            pictures += drawn(plotting.completions, vae, self._first(), context, **text)
        elif isinstance(vae, ConditionalVAE):
            line = "Test images with their contexts; below each, means of p(x | z, c) at samples of the prior given c."
            text = {"alt": "Samples given a context", "caption": line}
            pictures += drawn(plotting.completions, vae, self._first(), context, **text)
        else:
            line = "Means of p(x | z) at samples of the prior."
            pictures += drawn(plotting.samples, vae, alt="Samples of the model", caption=line)
        text = html.paragraph(f"{caption_of(self.trained.protocol)}.")
        return text + html.pictures(pictures) if pictures else html.paragraph("The data are not images.")

    def _worst(self) -> Markup:
        main = self.main()
        if main is None or main.protocol.get("split") != "test" or len(main) > len(self.trained.splits.test):
            return Markup()
        order = main.log_likelihood.argsort()[:WORST].tolist()
        scored = [result for result in self.kind(OutlierScores) if result.protocol.get("split") == "test"]
        p_values = [result.p_value() for result in scored if len(result) == len(main)][:1]
        header = [
            "number",
            "log p(x)",
            "standard error",
            "ELBO",
            "Pareto k",
            "class",
            *["p-value"] * len(p_values),
        ]
        caption = "Test images with the lowest estimate of log p(x), worst first; in nats, Pareto k without unit"
        rows = [[*self._image_row(main, i), *(f"{float(p[i]):.4f}" for p in p_values)] for i in order]
        caption += "; p-value of all outlier scores together" if p_values else ""
        table = html.table(header, rows, caption)
        if not isinstance(self.trained.vae, VAE):
            return table
        text = {"alt": "The worst-explained images", "caption": "The same images, and a reconstruction below each."}
        return table + html.pictures(drawn(plotting.reconstructions, self.trained.vae, self._batch(order), **text))

    def _image_row(self, result: LogLikelihood, i: int) -> list[str]:
        labels = self.trained.splits.test.labels
        numbers = [nats(t[i]) for t in (result.log_likelihood, result.standard_error, result.elbo)]
        return [str(i), *numbers, f"{float(result.pareto_k[i]):.2f}", "-" if labels is None else str(int(labels[i]))]

    def _stale(self) -> Markup:
        """Results of other weights, crossed out, with the commands that renew them; and those of unknown weights."""
        blocks = []
        for path, result in self.entries.stale.items():
            note = f"{path.name}: {self.entries.note(result)}. Renew it:"
            blocks += [html.struck(result.lines()), html.note(note), html.code([renewal(self.run, path, result)])]
        text = (
            "The result has no fingerprint of its weights, as those of earlier versions; it may be of earlier weights."
        )
        return Markup().join([*blocks, *(html.note(f"{path.name}: {text}") for path in self.entries.unknown())])

    def _first(self) -> torch.Tensor:
        return self._batch(range(min(10, len(self.trained.splits.test))))

    def _batch(self, rows: Sequence[int]) -> torch.Tensor:
        """Test images on the model's device, in its dtype."""
        like = next(self.trained.vae.parameters())
        with isolated_rng(0):
            return self.trained.splits.test.batch(list(rows), dtype=like.dtype).to(like.device)

    def _commands(self) -> list[str]:
        """The commands that make the missing results."""
        results = [*self.results.values(), *self.entries.stale.values()]  # these come with commands of their own
        kinds = {type(r) for r in results if r.protocol.get("split") == "test"}
        methods = [m for m in METHODS.values() if not set(m.results) <= kinds and m.applies(self.trained.vae)]
        return [f"pyro-vae evaluate {shlex.quote(str(self.run.path))} --method {m.name}" for m in methods]

    def _missing(self) -> Markup:
        if not (commands := self._commands()):
            return Markup()
        names = ", ".join(command.rpartition(" ")[2] for command in commands)
        return html.paragraph(f"The test split has no result of {names}. Commands:") + html.code(commands)
