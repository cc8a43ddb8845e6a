"""Plant single-line bugs in the estimators and see that each makes a test fail.

    python tools/planted_bugs.py             all of them
    python tools/planted_bugs.py recording   those in files of that name

Every mutant is a file, a line's text and what it becomes. The package is copied, changed and tested in the copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDING = ["tests/test_recording.py", "-m", "not slow"]
ENGINES = ["tests/test_engines.py", "-m", "not slow"]
TRAINING = ["tests/test_training_engines.py", "-m", "not slow"]
PRIORS = ["tests/test_priors.py"]
SHARED = ["tests/test_shared_pieces.py"]
HIERARCHY = ["tests/test_hierarchical.py"]
PER_DATUM = ["tests/test_per_datum_objectives.py", "-k", "not expectation and not ratio"]
RATIO = ["tests/test_per_datum_objectives.py::test_the_ratio_of_a_known_gradient"]
FLOWS = ["tests/test_flows.py"]
GUIDES = ["tests/test_guides.py"]
DISTRIBUTIONS = ["tests/test_distributions.py"]
ANNEALED = ["tests/test_annealed.py", "-m", "not slow"]
SANDWICH = ["tests/test_sandwich.py"]
POSTERIOR = ["tests/test_posterior.py"]
PROPOSALS = ["tests/test_proposals.py"]
GAPS = ["tests/test_gaps.py"]
AGGREGATE = ["tests/test_aggregate.py"]
DIAGNOSTICS = ["tests/test_diagnostics.py"]
CALIBRATION = ["tests/test_calibration.py"]
PREDICTIVE = ["tests/test_predictive.py"]
COMPARE = ["tests/test_compare.py"]
REPORT = ["tests/test_report.py"]
BOUND_FIGURES = ["tests/test_bound_figures.py"]
ESTIMATORS = ["tests/test_log_likelihood.py", "tests/test_log_weights.py", "tests/test_pareto.py"]
LIKELIHOODS = ["tests/test_likelihoods.py"]
NETWORKS = ["tests/test_networks.py"]
CLASSES = ["tests/test_classification.py"]
CLASS_POSTERIOR = ["tests/test_class_posterior.py", "-k", "not recording"]
CLASS_FIGURES = ["tests/test_class_figures.py"]
AUXILIARY = ["tests/test_auxiliary_semi_supervised.py"]
LABELLED = ["tests/test_semi_supervised.py", "tests/test_label_gradients.py", "tests/test_stacked.py"]
FEATURES = ["tests/test_features.py"]
CHOICE = ["tests/data/test_labelling.py"]
M2_CLI = ["tests/test_semi_supervised_cli.py"]
IN_OBJECTIVES = ["tests/test_labels_in_objectives.py"]
PROGRAMS = ["tests/test_pyro_programs.py"]
WAYS = ["tests/test_ways.py"]
STYLES = ["tests/test_program_styles.py", "tests/test_pyro_programs.py", "-m", "not slow"]
MUTANTS: list[tuple[str, str, str, list[str]]] = [
    ("_core/masks.py", "return torch.as_tensor(one) | _raised", "return torch.as_tensor(one) & _raised", WAYS),
    ("_core/blocks.py", "- transform._cached_log_scale", "", STYLES),
    ("_core/blocks.py", "- scale_tril.diagonal(dim1=-2, dim2=-1).log()", "", STYLES),
    ("_core/auxiliary.py", 'return frozenset(s["name"] for s in observed) - reverse', "return frozenset()", STYLES),
    ("_core/auxiliary.py", "if not (square and right):", "if False:", STYLES),
    ("_core/rows.py", "if agree(part, whole[:, rows]):", "if True:", STYLES),
    (
        "_core/rows.py",
        "return None if bool(changed[0, moved]) else order",
        "return None",
        WAYS,
    ),
    (
        "_core/ways.py",
        "return _guides_agree(pair, runs, single, draws, latent) and agree(",
        "return True or agree(",
        STYLES,
    ),
    ("_core/ways.py", "if not weights_change or _is_right", "if True or _is_right", ["tests/test_ways.py"]),
    ("_core/runs.py", 'if layout.mode == "flattened" and num > 1:', "if False:", WAYS),
    ("_core/runs.py", "without_plates(trace) if layout", "trace.copy() if layout", STYLES),
    ("_core/layout.py", "value.movedim(self.axis, 0).flatten(1", "value.movedim(self.axis, 1).flatten(1", PROGRAMS),
    ("_core/layout.py", "(num_samples, -1)).movedim(place, 0)", "(-1, num_samples)).movedim(place + 1, 0)", PROGRAMS),
    ("_core/owners.py", "modes.append((module, module.training))", "pass", STYLES),
    ("_core/owners.py", "buffer.copy_(value)", "pass", STYLES),
    ("training/parameters.py", "self.stored |= self._add(self._variables(others))", "pass", STYLES),
    ("training/trainer.py", "self.batches.shuffle_seed = None", "pass", STYLES),
    ("training/engines/compiled.py", "if self._unchanged(self._recorded.follows, share, *args):", "if True:", WAYS),
    ("training/engines/compiled.py", "self._lifted.fill()", "pass", STYLES),
    ("evaluation/weights.py", "columns = self.order.argsort()", "columns = self.order", WAYS),
    ("networks/conditioned.py", '"activation": options["activation"]', '"activation": "relu"', M2_CLI),
    ("networks/conditioned.py", 'not options["dropout"]', "True", M2_CLI),
    ("networks/conditioned.py", "given = {**found.keywords, **given}", "given = {**given}", M2_CLI),
    ("cli/train_options.py", '"relaxed": "ELBO"', '"relaxed": "SummedELBO"', M2_CLI),
    ("experiments/latent_data.py", ".std(0) > threshold", ".abs().mean(0) > threshold", M2_CLI),
    ("experiments/latent_data.py", ".sample()[..., position]", ".mean[..., position]", M2_CLI),
    ("experiments/latent_data.py", "if found.get(key) != expected[key]", "if False", M2_CLI),
    ("experiments/labels.py", "missing = sorted(set(range(num)) - there)", "missing = []", M2_CLI),
    ("data/inputs.py", "return 1 if top <= 1 else max_value", "return max_value", M2_CLI),
    ("experiments/trained_model.py", "images.unpaired() if images.paired else images", "images", M2_CLI),
    ("objectives/summed.py", "torch.where(weight == 0, 0.0, value)", "value", IN_OBJECTIVES),
    ("objectives/summed.py", "masks=False", "masks=True", IN_OBJECTIVES),
    ("objectives/score_function.py", ".detach() / self.num_particles", ".detach()", IN_OBJECTIVES),
    ("objectives/per_datum.py", " + (scale * draws.loss).sum(-1).mean()", "", IN_OBJECTIVES),
    (
        "objectives/programs.py",
        "losses(trace)) for trace in drawn",
        "losses(trace)) for trace in guide.traces",
        IN_OBJECTIVES,
    ),
    ("objectives/elbo.py", 'if msg["infer"].get("is_loss"):', "if False:", IN_OBJECTIVES),
    ("_core/traces.py", 'if not site["infer"].get("is_loss")', "if True", IN_OBJECTIVES),
    ("training/loss.py", "return torch.empty_like(parameter).copy_(gradient)", "return gradient", IN_OBJECTIVES),
    ("training/progress.py", "numbers.keys() & record.keys()", "set()", IN_OBJECTIVES),
    (
        "models/stacked.py",
        "self.whole = chosen == list(range(latent_dim))",
        "self.whole = len(chosen) == latent_dim",
        LABELLED,
    ),
    (
        "evaluation/calibration_curve.py",
        "torch.bucketize(confidence, edges[1:-1])",
        "torch.bucketize(confidence, edges[1:-1], right=True)",
        CLASSES,
    ),
    ("evaluation/calibration_curve.py", "self.counts / self.counts.sum() * gap", "gap / len(gap)", CLASSES),
    ("evaluation/calibration_curve.py", "torch.arange(len(order)) * num_bins", "order * num_bins", CLASSES),
    ("evaluation/calibration_curve.py", "math.sqrt(2 / math.pi) * spread", "spread", CLASSES),
    (
        "evaluation/classifier.py",
        "(self.probabilities - truth.double()).square().sum(-1)",
        "(self.probabilities - truth.double()).square().mean(-1)",
        CLASSES,
    ),
    (
        "evaluation/classifier.py",
        "self.labels.long() * self.num_classes + self.predictions",
        "self.predictions * self.num_classes + self.labels.long()",
        CLASSES,
    ),
    ("evaluation/classifier.py", "self.error == 0, num", "self.error > 0, num", CLASSES),
    ("evaluation/classifier.py", "int((labels == -1).sum())", "0", CLASSES),
    ("evaluation/confidence_interval.py", "stdtrit(n - 1, (1 + level) / 2)", "stdtrit(n - 1, level)", CLASSES),
    ("evaluation/confidence_interval.py", "stdtrit(n - 1,", "stdtrit(n,", CLASSES),
    ("evaluation/confidence_interval.py", "/ (n - 1))", "/ n)", CLASSES),
    (
        "evaluation/label_posterior.py",
        "return self.log_joint.logsumexp(-1)",
        "return self.log_joint.max(-1).values",
        CLASS_POSTERIOR,
    ),
    (
        "evaluation/label_posterior.py",
        "_root_sum_squares(self.probabilities(), self.log_joint_error)",
        "_root_sum_squares(torch.ones_like(self.log_joint), self.log_joint_error)",
        CLASS_POSTERIOR,
    ),
    ("evaluation/label_posterior.py", ".square().sum(-1).sqrt()", ".sum(-1)", CLASS_POSTERIOR),
    (
        "evaluation/label_posterior.py",
        "torch.where(slopes == 0, 0.0, slopes * errors)",
        "(slopes * errors)",
        CLASS_POSTERIOR,
    ),
    ("evaluation/label_posterior.py", "- p.unsqueeze(-2))  #", "+ 0 * p.unsqueeze(-2))  #", CLASS_POSTERIOR),
    (
        "evaluation/label_posterior.py",
        "_labelled(args, c), num_samples",
        "_labelled(args, 0), num_samples",
        CLASS_POSTERIOR,
    ),
    ("evaluation/label_posterior.py", "*rest[1:]", "*rest", CLASS_POSTERIOR),
    ("evaluation/label_posterior.py", "WeightSummary(num_samples)", "WeightSummary(num_samples + 1)", CLASS_POSTERIOR),
    ("evaluation/label_posterior.py", "    _check_classes(model, last, num_classes)\n", "    pass\n", CLASS_POSTERIOR),
    (
        "plotting/class_images.py",
        "z.repeat_interleave(vae.num_classes, 0)",
        "z.repeat(vae.num_classes, 1)",
        CLASS_FIGURES,
    ),
    ("plotting/class_images.py", "get_trace(x, y).nodes", "get_trace(x).nodes", CLASS_FIGURES),
    ("plotting/class_images.py", "torch.where(known == -1, told, known)", "known", CLASS_FIGURES),
    ("plotting/classes.py", "fill_diagonal_(0)", "fill_diagonal_(1)", CLASS_FIGURES),
    ("plotting/classes.py", "(c + c // 10) % 10", "c % 10", CLASS_FIGURES),
    ("plotting/classes.py", "share - centre + half, centre + half - share", "half, half", CLASS_FIGURES),
    (
        "models/auxiliary_semi_supervised.py",
        "self.likelihood(z, label, a), obs=x",
        "self.likelihood(z, label, a.detach()), obs=x",
        AUXILIARY,
    ),
    (
        "models/auxiliary_semi_supervised.py",
        "self.classifier.net(x, a), x, y",
        "self.classifier.net(x, a.detach()), x, y",
        AUXILIARY,
    ),
    (
        "models/auxiliary_semi_supervised.py",
        "self.guide.posterior(x, label, a), infer",
        "self.guide.posterior(x, label, a.detach()), infer",
        AUXILIARY,
    ),
    ("models/auxiliary_semi_supervised.py", "posterior(z, label))", "posterior(z, label.roll(1, -1)))", AUXILIARY),
    (
        "models/auxiliary_semi_supervised.py",
        "auxiliary, classification_weight))",
        "auxiliary, 0.0 * classification_weight))",
        AUXILIARY,
    ),
    (
        "models/labelled.py",
        "if self.training and self.classification_weight > 0",
        "if self.classification_weight > 0",
        LABELLED,
    ),
    ("models/labelled.py", "torch.where(known(y), log_q, 0.0)", "log_q", LABELLED),
    ("models/labelled.py", "loss, has_rsample=True", "loss.detach(), has_rsample=True", LABELLED),
    ("models/labelled.py", ".mask(known(y)), obs", ", obs", LABELLED),
    ("models/labelled.py", "/ len(found)", "/ (len(found) + 1)", LABELLED),
    ("models/labelled.py", "q.mean,) if", "q(),) if", LABELLED),
    (
        "models/labels.py",
        "point = torch.where(label.sum(-1, keepdim=True) > 0, point, torch.nan)",
        "pass",
        IN_OBJECTIVES,
    ),
    ("models/labels.py", "low < -1 or high >= num_classes", "low < -1", LABELLED),
    ("models/labels.py", "low < -1 or high >= num_classes", "high >= num_classes", LABELLED),
    ("models/labels.py", "return y != -1", "return y > 0", LABELLED),
    (
        "models/stacked.py",
        "order = torch.cat([self.active, self.rest]).argsort()",
        "order = torch.cat([self.active, self.rest])",
        LABELLED,
    ),
    (
        "models/stacked.py",
        "self.split.of(self.lower_prior(), self.split.rest)",
        "self.split.of(self.lower_prior(), self.split.rest * 0)",
        LABELLED,
    ),
    (
        "models/stacked.py",
        "self.split.of(q, self.split.active))",
        "self.split.of(q, self.split.active.sort().values))",
        LABELLED,
    ),
    ("models/semi_supervised.py", "alpha * num_data / num_labels", "alpha * num_labels / num_data", LABELLED),
    ("_core/layout.py", "dims != set(self.dims)", "False", LABELLED),
    ("networks/context.py", "common = common + layer(c)", "common = common + self.context[0](context[0])", AUXILIARY),
    ("likelihoods/location_scale.py", "self.log_scale + log_factor", "self.log_scale", LIKELIHOODS),
    (
        "likelihoods/grey_levels.py",
        "outputs.reshape(*batch, count, *data_shape)",
        "outputs.reshape(*batch, *data_shape, count)",
        LIKELIHOODS,
    ),
    ("features/encoding.py", "- math.log(num_samples)", "+ 0 * math.log(num_samples)", FEATURES),
    ("features/encoding.py", "        reseed(seed, 0)\n", "", FEATURES),
    ("features/encoding.py", "if sample else", "if not sample else", FEATURES),
    ("features/transformer.py", "self.latent_mean_[~self.active_]", "0.0", FEATURES),
    ("features/transformer.py", "lr=self.lr)", "lr=1e-3)", FEATURES),
    ("data/labelling.py", "known >= 0", "known >= -1", CHOICE),
    ("data/labelling.py", "positions[order[:quota]]", "positions[:quota]", CHOICE),
    ("data/labelling.py", 'f"labels of class {label}"', '"labels"', CHOICE),
    ("evaluation/hmc.py", "nan_to_num(nan=0.0)", "nan_to_num(nan=1.0)", ANNEALED),
    ("evaluation/annealed.py", "between = min(stage, following)", "between = stage", SANDWICH),
    ("evaluation/bidirectional.py", "    return state.u\n", "    return u\n", SANDWICH),
    ("evaluation/bidirectional.py", "exact.expand(", "(0.5 * exact).expand(", SANDWICH),
    ("_core/layout.py", "value.sum(others) if others", "value.mean(others) if others", PROPOSALS),
    ("evaluation/joint_density.py", "-math.log(len(site", "0 * math.log(len(site", PROPOSALS),
    ("evaluation/inflation.py", "fn.cov_diag * factor**2", "fn.cov_diag * factor", PROPOSALS),
    ("evaluation/inflation.py", "fn.df, fn.loc, fn.scale * factor", "fn.df * factor, fn.loc, fn.scale", PROPOSALS),
    ("evaluation/posterior.py", "for _ in range(thinning):", "for _ in range(1):", POSTERIOR),
    ("evaluation/streaming.py", "j * math.log(2) for j", "0.0 for j", PROPOSALS),
    ("evaluation/streaming.py", "blocks = torch.cat([self._unpaired[level], blocks])", "pass", PROPOSALS),
    ("evaluation/streaming.py", "self._counts[level] += len(blocks)", "self._counts[level] += 1", PROPOSALS),
    ("evaluation/annealed.py", "(betas[stage] - betas[stage - 1])", "betas[stage] / last", ANNEALED),
    ("evaluation/annealed.py", "between = min(stage, following)", "between = max(stage, following)", ANNEALED),
    ("evaluation/annealed.py", "(curve - curve[0]) / (curve[-1] - curve[0])", "curve", ANNEALED),
    ("evaluation/hmc.py", "self.target.double() - self.start.double()", "self.target.double()", ANNEALED),
    (
        "evaluation/hmc.py",
        "accepted = torch.rand_like(probability) < probability",
        "accepted = probability > -1",
        ANNEALED,
    ),
    ("evaluation/hmc.py", "- proposed.energy(beta) - _kinetic(last)", "- proposed.energy(beta)", ANNEALED),
    ("evaluation/latent_density.py", "return PathDensities(start + log_det,", "return PathDensities(start,", ANNEALED),
    ("evaluation/latent_density.py", "density.log_prior + log_det)", "density.log_prior)", ANNEALED),
    ("evaluation/latent_density.py", "movedim(1, 1 + self.data)", "movedim(1, 1)", ANNEALED),
    ("evaluation/bidirectional.py", "log_mean(-log_weights)", "log_mean(log_weights)", SANDWICH),
    ("evaluation/bidirectional.py", '"upper": -upper', '"upper": upper', SANDWICH),
    ("evaluation/bidirectional.py", "max(0.0, self.gap()[0])", "self.gap()[0]", SANDWICH),
    ("evaluation/simulation.py", "poutine.trace(poutine.uncondition(model))", "poutine.trace(model)", SANDWICH),
    (
        "evaluation/harmonic.py",
        "log_q - fresh.log_joint.flatten(0, 1)",
        "fresh.log_joint.flatten(0, 1) - log_q",
        POSTERIOR,
    ),
    ("evaluation/harmonic.py", "logsumexp(0) - math.log(draws)", "logsumexp(0)", POSTERIOR),
    ("evaluation/harmonic.py", "log_mean(per_chain)", "log_mean(log_ratio)", POSTERIOR),
    ("evaluation/kernel_density.py", "dim * (math.log(h) +", "(math.log(h) +", POSTERIOR),
    ("evaluation/kernel_density.py", "int(likelihoods.argmax())", "0", POSTERIOR),
    ("evaluation/posterior.py", "[1.0] * warmup", "[0.0] * warmup", POSTERIOR),
    ("evaluation/weights.py", "logsumexp(0) - math.log(len(densities))", "logsumexp(0)", PROPOSALS),
    ("evaluation/weights.py", "index == number", "index != number", PROPOSALS),
    ("evaluation/joint_density.py", "[*latents(trace), *observations(trace)]", "observations(trace)", PROPOSALS),
    ("evaluation/joint_density.py", "flatten(0, most - 3).logsumexp(0)", "flatten(0, most - 3).sum(0)", PROPOSALS),
    (
        "evaluation/inflation.py",
        "type(fn)(fn.loc, scale_tril=fn.scale_tril * factor",
        "type(fn)(fn.loc, scale_tril=fn.scale_tril",
        PROPOSALS,
    ),
    (
        "evaluation/likelihood.py",
        "(self.pareto_k > PARETO_K_LIMIT).nonzero()",
        "(self.pareto_k < PARETO_K_LIMIT).nonzero()",
        PROPOSALS,
    ),
    ("evaluation/gaps_result.py", "chosen.logsumexp(0) - math.log(num_samples)", "chosen.logsumexp(0)", GAPS),
    ("evaluation/gaps_result.py", "(bound - best_elbo, of_bound - of_best)", "(bound - best_elbo, of_bound)", GAPS),
    ("evaluation/gaps_result.py", "(best_elbo - elbo, of_best - of_elbo)", "(best_elbo - elbo, of_best)", GAPS),
    ("evaluation/gaps_result.py", "torch.where(from_best, best, guide)", "torch.maximum(best, guide)", GAPS),
    ("evaluation/local_optimisation.py", "-slope.nan_to_num", "slope.nan_to_num", GAPS),
    (
        "evaluation/local_optimisation.py",
        "density.log_likelihood + density.log_prior -",
        "density.log_likelihood -",
        GAPS,
    ),
    ("evaluation/local_optimisation.py", "total / quarter for total", "total / num_steps for total", GAPS),
    ("evaluation/gaps.py", "        local.keep(better, start)\n", "", GAPS),
    ("evaluation/aggregate.py", "shift = math.log(self.num_data)", "shift = 0.0", AGGREGATE),
    ("evaluation/aggregate.py", '"information": own - joint', '"information": joint - own', AGGREGATE),
    ("evaluation/aggregate.py", "product = each.sum(-1)", "product = each.mean(-1)", AGGREGATE),
    ("evaluation/aggregate.py", ".std(0) / math.sqrt(len(self.terms[n]))", ".std(0)", AGGREGATE),
    ("evaluation/marginals.py", "Normal(q.mean, q.variance.sqrt())", "Normal(q.mean, q.variance)", AGGREGATE),
    ("evaluation/diagnostics.py", "kl[0].mean(0)", "kl[0].sum(0)", DIAGNOSTICS),
    ("evaluation/diagnostics.py", "correction=0) - drawn", "correction=0)", DIAGNOSTICS),
    ("evaluation/calibration.py", "(draws < z).sum(0) +", "(draws > z).sum(0) +", CALIBRATION),
    ("evaluation/calibration.py", "(ties + 1)", "ties", CALIBRATION),
    ("evaluation/calibration.py", "(self.num_bins - 1) / 2", "self.num_bins / 2", CALIBRATION),
    ("evaluation/calibration.py", "steps.cummax(0).values.clamp_max", "steps.clamp_max", CALIBRATION),
    ("evaluation/predictive.py", "(replicated > observed)", "(replicated < observed)", PREDICTIVE),
    ("evaluation/predictive.py", "copies = p.sample()", "copies = p.mean", PREDICTIVE),
    ("evaluation/predictive.py", ".view(num, -1) for", ".view(-1, num).T for", PREDICTIVE),
    (
        "experiments/comparison.py",
        '"sample_seed", "unavailable")',
        '"sample_seed", "unavailable", "precision")',
        COMPARE,
    ),
    (
        "experiments/comparison.py",
        "return result.gain(base, quantity.name) if",
        "return base.gain(result, quantity.name) if",
        COMPARE,
    ),
    ("experiments/results.py", "return not drawn and all", "return all", COMPARE),
    ("experiments/html.py", 'f"<td>{escape(c)}</td>"', 'f"<td>{c}</td>"', REPORT),
    (
        "experiments/html_report.py",
        "main.log_likelihood.argsort()[:WORST]",
        "main.log_likelihood.argsort(descending=True)[:WORST]",
        REPORT,
    ),
    ("plotting/bounds.py", "_paired_error(curve - curve[:, -1:])", "_paired_error(curve)", BOUND_FIGURES),
    ("evaluation/streaming.py", "return log_sum - math.log(s),", "return log_sum,", ESTIMATORS),
    ("evaluation/streaming.py", "(2 * total).logsumexp(0)", "total.logsumexp(0).clone()", ESTIMATORS),
    (
        "evaluation/streaming.py",
        "relative_variance = spread / (s - 1)",
        "relative_variance = spread / s**2",
        ESTIMATORS,
    ),
    (
        "evaluation/streaming.py",
        "self._log_ratio = self._log_likelihood + parts[2], self._log_ratio + parts[3]",
        "self._log_ratio = self._log_likelihood + parts[2], parts[3]",
        ESTIMATORS,
    ),
    ("evaluation/streaming.py", "torch.cat([self._largest, total])", "total", ESTIMATORS),
    (
        "evaluation/streaming.py",
        '"distortion": -self._log_likelihood / s',
        '"distortion": self._log_likelihood / s',
        ESTIMATORS,
    ),
    ("evaluation/weights.py", "density.log_prior - log_q", "log_q - density.log_prior", ESTIMATORS),
    ("_core/layout.py", "value.sum(others) if others", "value.mean(others) if others", ESTIMATORS),
    ("_core/traces.py", "return value if mask is None else", "return value if True else", ESTIMATORS),
    (
        "_core/layout.py",
        'site["kwargs"]), site["mask"])',
        'site["kwargs"]) * site["scale"], None)',
        ESTIMATORS,
    ),
    (
        "evaluation/importance.py",
        '(prior_proposal(model),) if proposal == "prior" else guides_of(guide)',
        "guides_of(guide)",
        ESTIMATORS,
    ),
    ("evaluation/importance.py", "min(chunk_size, num_samples - start)", "chunk_size", ESTIMATORS),
    (
        "evaluation/likelihood.py",
        "self.standard_error.square().sum().sqrt() / len(self)",
        "self.standard_error.mean()",
        ESTIMATORS,
    ),
    ("evaluation/likelihood.py", "/ math.log(2) / int(", "/ int(", ESTIMATORS),
    ("evaluation/pareto.py", "(n * shape + 5.0) / (n + 10)", "(n * shape + 5.0) / (n + 100)", ESTIMATORS),
    ("evaluation/pareto.py", "torch.log(-b / k) - k - 1", "torch.log(-b / k) + k - 1", ESTIMATORS),
    ("objectives/elbo.py", "return log_q - log_p", "return log_p - log_q", ["tests/test_objectives.py"]),
    ("objectives/elbo.py", "self.observed if msg", "self.latent if msg", ["tests/test_objectives.py"]),
    ("objectives/elbo.py", "Terms(*(total / self.num_particles", "Terms(*(total", ["tests/test_objectives.py"]),
    ("objectives/elbo.py", 'self.max_plate_nesting = float("inf")', "pass", ["tests/test_objectives.py"]),
    (
        "likelihoods/discretized_logistic.py",
        "half = 0.5 / (self.levels - 1)",
        "half = 0.5 / self.levels",
        ["tests/test_likelihoods.py"],
    ),
    ("likelihoods/discretized_logistic.py", "(level - 0.5)", "level", ["tests/test_likelihoods.py"]),
    ("guides/scales.py", ".exp()).to_event(1)", ".exp() ** 2).to_event(1)", ["tests/test_log_likelihood.py"]),
    ("training/loss.py", "grad(loss / size,", "grad(loss,", ["tests/test_fit.py"]),
    ("training/checkpoint.py", 'set_rng_state(state["rng"])', "pass", ["tests/test_fit.py"]),
    ("training/progress.py", 'self.sums["data"] += num_data', 'self.sums["data"] += 1', ["tests/test_fit.py"]),
    ("data/batches.py", "* 1_000_003 + epoch)", "* 1_000_003)", ["tests/data/test_batches.py"]),
    (
        "evaluation/diagnostics.py",
        "mean.var(0, correction=0)",
        "mean.std(0, correction=0)",
        ["tests/test_diagnostics.py"],
    ),
    (
        "experiments/latent_data.py",
        "vae.likelihood.initialise_mean(train.mean())",
        "pass",
        ["tests/test_cli.py::test_the_output_starts_at_the_mean_of_the_data"],
    ),
    (
        "experiments/experiment.py",
        "clip_norm=clip_norm",
        "clip_norm=None",
        ["tests/test_cli.py::test_every_option_of_training_reaches_fit"],
    ),
    ("_core/recording.py", "self._check(replay, args, values, spec)", "pass", RECORDING),
    ("_core/recording.py", "if not self._agree(again, values, spec):", "if False:", RECORDING),
    ("_core/recording.py", "tensor.copy_(value)", "pass", RECORDING),
    ("_core/recording.py", "stack.callback(setattr, module, name, getattr(module, name))", "pass", RECORDING),
    ("_core/recording.py", "if func in _READS or", "if", RECORDING),
    ("_core/recording.py", "torch.where(prob > 0, cost, 0.0)", "cost", ENGINES),
    ("_core/recording.py", 'frame.f_code.co_name == "__torch_function__"', "False", ENGINES),
    (
        "_core/recording.py",
        '"fallback_random": True',
        '"fallback_random": False',
        ["tests/test_recording.py::test_compiled_random_numbers_are_the_function_s_own"],
    ),
    (
        "_core/decompositions.py",
        "torch.ops.aten.bernoulli.default: _bernoulli,",
        "",
        ["tests/test_recording.py::test_compiled_random_numbers_are_the_function_s_own"],
    ),
    ("objectives/base.py", "self.beta if self._beta_tensor is None else self._beta_tensor", "self.beta", ENGINES),
    ("objectives/base.py", "self._beta_tensor.fill_(self.beta)", "pass", ENGINES),
    ("_core/precision.py", "value in kwargs.items()}).float()", "value in kwargs.items()})", ENGINES),
    ("_core/precision.py", "any(t.dtype != torch.float32 for t in tensors)", "False", ENGINES),
    ("training/engines/select.py", "planned_steps >= WORTH_COMPILING", "planned_steps > WORTH_COMPILING", ENGINES),
    ("training/engines/base.py", "0.0 if mine is theirs else", "0.0 if True else", ENGINES),
    ("training/engines/base.py", "        if finite:\n", "        if True:\n", TRAINING),
    (
        "training/engines/base.py",
        """                clip_grads_with_norm_(self.problem.parameters, self.clip_norm, total.norm)
            self._update(total.gradients)
""",
        """                self._update(total.gradients)
            clip_grads_with_norm_(self.problem.parameters, self.clip_norm or 1e9, total.norm)
""",
        TRAINING,
    ),
    ("training/engines/fused_adam.py", "torch._foreach_add_(steps, 1)", "pass", TRAINING),
    ("training/loss.py", "finite = support.all(finite)", "pass", TRAINING),
    ("training/loss.py", "[g * w for g, w in zip(", "[g / len(weights) for g, _ in zip(", TRAINING),
    ("training/loss.py", "finite = torch.isfinite(loss.detach() + norm)", "finite = torch.isfinite(loss)", TRAINING),
    ("training/checkpoint.py", 'loop.engine_name = _available(loop, saved["engine"])', "pass", TRAINING),
    ("training/nonfinite.py", "restore(problem.buffers, buffers)", "pass", TRAINING),
    ("training/engines/cuda_graph.py", "(~ok).float()", "torch.zeros_like(ok).float()", TRAINING),
    ("training/engines/cuda_graph.py", "torch.where(self.ok, tensor, value)", "tensor", TRAINING),
    ("training/engines/cuda_graph.py", "total.finite if ok is None else ok & total.finite", "total.finite", TRAINING),
    ("training/engines/cuda_graph.py", "buffer.copy_(torch.where(ok, buffer, value))", "pass", TRAINING),
    ("training/engines/cuda_graph.py", "if self._warm < 3 and not ok:", "if False:", TRAINING),
    ("training/engines/cuda_graph.py", "self._gradients.prepare(None, *held.args())", "held.args()", TRAINING),
    (
        "training/engines/cuda_graph.py",
        "batches = [(held.args(), held.length) for held in inputs]",
        "batches = ((held.args(), held.length) for held in inputs)",
        TRAINING,
    ),
    ("training/engines/cuda_graph.py", "weight.copy_(self.betas[i])", "weight.copy_(self.betas[0])", TRAINING),
    ("training/engines/cuda_graph.py", "self.index.copy_(batch.index)", "pass", TRAINING),
    ("training/engines/cuda_graph.py", "lr.to(device) if isinstance", "lr if isinstance", TRAINING),
    (
        "training/engines/cuda_graph.py",
        "clip_grads_with_norm_(self.problem.parameters, self.clip_norm, total.norm)",
        "pass",
        TRAINING,
    ),
    ("likelihoods/tilting.py", "near * (x - 0.5)", "near * x", LIKELIHOODS),
    ("likelihoods/tilting.py", "2 * k * c for k", "k * c for k", LIKELIHOODS),
    ("likelihoods/tilting.py", "- area.log())", "+ area.log())", LIKELIHOODS),
    ("likelihoods/tilting.py", "slope * (1 + 1 / n)", "slope", LIKELIHOODS),
    ("likelihoods/tilting.py", "torch.where(below, middle, low)", "torch.where(below, low, middle)", LIKELIHOODS),
    (
        "likelihoods/categorical.py",
        "log_probs = self.logits.log_softmax(self.level_dim)",
        "log_probs = self.logits.log_softmax(-1)",
        LIKELIHOODS,
    ),
    ("likelihoods/categorical.py", "level.T.reshape", "level.reshape", LIKELIHOODS),
    ("likelihoods/categorical.py", "logits + self.offset", "logits - self.offset", LIKELIHOODS),
    (
        "likelihoods/continuous_bernoulli.py",
        "torch.where(self.logits > 0, 1 - distance, distance)",
        "torch.where(self.logits < 0, 1 - distance, distance)",
        LIKELIHOODS,
    ),
    ("likelihoods/beta_binomial.py", "(b - 0.5) * torch.log1p", "b * torch.log1p", LIKELIHOODS),
    ("likelihoods/beta_binomial.py", "log_a - torch.where", "a.log() - torch.where", LIKELIHOODS),
    ("likelihoods/beta_binomial.py", "logsigmoid(-self.logits), n - k", "logsigmoid(-self.logits), k", LIKELIHOODS),
    ("likelihoods/mixture_of_logistics.py", "c, :], c * (c - 1) // 2", "c, :], c", LIKELIHOODS),
    ("likelihoods/mixture_of_logistics.py", "* (x - 0.5)", "* x", LIKELIHOODS),
    (
        "likelihoods/mixture_of_logistics.py",
        "self.logits.log_softmax(-2)",
        "self.logits.log_softmax(-1)",
        LIKELIHOODS,
    ),
    ("likelihoods/location_scale.py", "self.min_scale + (self.log_scale", "(self.log_scale", LIKELIHOODS),
    ("networks/gated_conv.py", "glu(self.conv(x), dim=1)", "glu(self.conv(x).flip(1), dim=1)", NETWORKS),
    ("networks/gated_conv.py", "[..., :h, :w]", "[..., -h:, -w:]", NETWORKS),
    ("networks/gated_conv.py", "in self.conv.weight.chunk(2)", "in [self.conv.weight]", NETWORKS),
    ("networks/residual_conv.py", "return x + self.layers(x)", "return self.layers(x)", NETWORKS),
    ("objectives/per_datum.py", "- torch.full_like(log_sum, float(len(log_weight))).log()", "", PER_DATUM),
    (
        "objectives/per_datum.py",
        "value = -(scale * estimate.bound.detach()).sum()",
        "value = -estimate.bound.detach().sum()",
        PER_DATUM,
    ),
    (
        "objectives/per_datum.py",
        "surrogate = -(scale * estimate.surrogate).sum()",
        "surrogate = -estimate.surrogate.sum()",
        PER_DATUM,
    ),
    ("objectives/per_datum.py", "if scale is not first and _differ(layout, scale, first):", "if False:", PER_DATUM),
    ("objectives/programs.py", "- self.log_factor", "+ self.log_factor", PER_DATUM),
    (
        "objectives/programs.py",
        "lambda grad: grad * layout",
        "lambda grad: grad + 0 * layout",
        PER_DATUM,
    ),
    (
        "objectives/programs.py",
        "if any(self.layout.factors(trace) for trace in density.traces):",
        "if False:",
        PER_DATUM,
    ),
    (
        "objectives/programs.py",
        "for m in owners.modules.values()}",
        "for m in list(owners.modules.values())[-1:]}",
        PER_DATUM,
    ),
    ("objectives/programs.py", "b.clone() for", "b for", PER_DATUM),
    ("objectives/programs.py", "with noise.repeated(), _held_parameters():", "with _held_parameters():", PER_DATUM),
    (
        "objectives/programs.py",
        'msg["value"] = msg["value"].detach()\n\n\n@contextmanager',
        "pass\n\n\n@contextmanager",
        PER_DATUM,
    ),
    (
        "objectives/importance_weighted.py",
        "(self.num_particles, self.num_batches)",
        "(self.num_batches, self.num_particles)",
        PER_DATUM,
    ),
    ("objectives/renyi.py", ".log1p() / order", ".log1p()", PER_DATUM),
    ("objectives/renyi.py", "if order > 0 else values.min(0).values", "", PER_DATUM),
    (
        "objectives/reparameterized.py",
        "scale.factor * draws.log_weight",
        "scale.factor**2 * draws.log_weight",
        PER_DATUM,
    ),
    (
        "objectives/score_function.py",
        "(values.sum(dim, keepdim=True) - values)",
        "values.sum(dim, keepdim=True)",
        PER_DATUM,
    ),
    ("objectives/score_function.py", "replaced.logsumexp(1)", "replaced.logsumexp(0)", PER_DATUM),
    ("objectives/wake_sleep.py", "(1 - self.wake) * dream", "dream", PER_DATUM),
    ("objectives/wake_sleep.py", "self.wake * draws.log_guide", "draws.log_guide", PER_DATUM),
    ("objectives/free_bits.py", "_analytic(q, p) if analytic else None", "_analytic(q, p)", PER_DATUM),
    ("objectives/free_bits.py", "clamp_min(self.nats)", "clamp_max(self.nats)", PER_DATUM),
    ("objectives/free_bits.py", "masked(kl, mask)", "kl", PER_DATUM),
    ("objectives/beta_tc.py", "+ math.log(each.shape[2])", "", PER_DATUM),
    ("objectives/beta_tc.py", "each.sum(-1).logsumexp(2)", "each.logsumexp(2).sum(-1)", PER_DATUM),
    ("objectives/info_vae.py", "others = 1 - torch.eye", "others = 1 + 0 * torch.eye", PER_DATUM),
    ("objectives/info_vae.py", "within - 2 * self._kernel", "within - self._kernel", PER_DATUM),
    ("objectives/enumerated.py", "log_guide - log_prior)", "log_prior - log_guide)", PER_DATUM),
    ("evaluation/gradient_noise.py", "off.square() * (n - 1) / n", "off.square()", RATIO),
    ("evaluation/gradient_noise.py", "1 / num + snr.square() / (2 * (num - 1))", "1 / num", RATIO),
    ("training/compatibility.py", "if names != proposed:", "if False:", ["tests/test_combinations.py"]),
    ("training/compatibility.py", "and (drawn or not labelled)", "", ["tests/test_combinations.py"]),
    ("training/compatibility.py", "if marked and not sums:", "if False:", ["tests/test_combinations.py"]),
    ("flows/distribution.py", "log_prob = log_prob - log_det", "log_prob = log_prob + log_det", FLOWS),
    ("flows/distribution.py", "log_det = log_det + term", "log_det = term", FLOWS),
    ("flows/distribution.py", "if value is self.value and usable", "if value is self.value", FLOWS),
    (
        "flows/distribution.py",
        "self.base.expand(batch_shape), self.transforms, self._last",
        "self.base.expand(batch_shape), self.transforms, _LastDraw()",
        FLOWS,
    ),
    ("flows/distribution.py", "new._validate_args = self._validate_args", "pass", FLOWS),
    ("flows/tanh.py", "return by_r, -by_r * h", "return by_r, by_r * h", FLOWS),
    ("flows/tanh.py", "return square + q * (1 - square)", "return 1 + q * (1 - square)", FLOWS),
    ("flows/tanh.py", "NEWTON_STEPS = 12", "NEWTON_STEPS = 6", FLOWS),
    ("flows/radial.py", "(dim - 1) * self._ratio(r).log()", "dim * self._ratio(r).log()", FLOWS),
    ("flows/sylvester.py", "self.slope[..., i]).tanh()", "self.slope[..., 0]).tanh()", FLOWS),
    ("flows/sylvester.py", "for _ in range(2):", "for _ in range(1):", FLOWS),
    ("flows/sylvester.py", "+ (gain * diagonal).diag_embed()", "+ diagonal.diag_embed()", FLOWS),
    ("flows/autoregressive.py", "log_det - log_scale[..., i]", "log_det - log_scale[..., 0]", FLOWS),
    ("flows/spline.py", "numerator.log() - 2 * (", "numerator.log() - (", FLOWS),
    ("flows/made.py", "after.unsqueeze(1) >= before", "after.unsqueeze(1) > before", FLOWS),
    ("guides/iaf.py", "(-s - OPEN).sigmoid() * m", "(s + OPEN).sigmoid() * m", FLOWS),
    (
        "priors/flow.py",
        "InverseFlow(AutoregressiveFlow(partial(_affine, net)))",
        "AutoregressiveFlow(partial(_affine, net))",
        FLOWS,
    ),
    ("priors/flow.py", "for part in (flow, ReverseFlow())", "for part in (flow, flow)", FLOWS),
    ("distributions/mixture_of_normals.py", "side * (before + torch", "(before + torch", DISTRIBUTIONS),
    (
        "distributions/mixture_of_normals.py",
        "torch.where(lower < -math.log(2), 1.0, -1.0)",
        "1.0 + 0 * lower",
        DISTRIBUTIONS,
    ),
    ("distributions/mixture_of_normals.py", "direct - later * t / scales", "direct", DISTRIBUTIONS),
    ("distributions/mixture_of_normals.py", "(t.square() - 1) / scales", "t.square() / scales", DISTRIBUTIONS),
    (
        "distributions/mixture_of_normals.py",
        "(total - log_normals).log_softmax(-2)",
        "total.log_softmax(-2)",
        DISTRIBUTIONS,
    ),
    ("distributions/mixture_of_normals.py", "+ slope_z  #", "- slope_z  #", DISTRIBUTIONS),
    ("distributions/mixture_of_normals.py", "ctx.save_for_backward(out,", "ctx.save_for_backward(z,", DISTRIBUTIONS),
    ("distributions/leapfrog.py", "* (x.shape[-1] // 2))", "* x.shape[-1])", DISTRIBUTIONS),
    (
        "distributions/leapfrog.py",
        "reversed(self.log_tempering.unbind())",
        "self.log_tempering.unbind()",
        DISTRIBUTIONS,
    ),
    ("distributions/leapfrog.py", "(v + half * slope) * log", "(v + 0.9 * half * slope) * log", DISTRIBUTIONS),
    ("distributions/gradient.py", "create_graph=follow", "create_graph=False", GUIDES),
    ("distributions/gradient.py", "with torch.enable_grad():", "if True:", DISTRIBUTIONS),
    ("distributions/one_hot.py", ".clamp_min(torch.finfo(self.logits.dtype).min)", "", DISTRIBUTIONS),
    ("distributions/one_hot.py", "log_probs - torch.empty_like", "log_probs + torch.empty_like", DISTRIBUTIONS),
    ("distributions/one_hot.py", "(soft - soft.detach())", "0 * soft", GUIDES),
    ("distributions/pair.py", "self.auxiliary.log_prob(a) + ", "", DISTRIBUTIONS),
    ("distributions/augmented.py", "-self.reverse(z)", "self.reverse(z)", DISTRIBUTIONS),
    ("guides/full_rank_normal.py", "scale.unsqueeze(-1) * unit", "scale.unsqueeze(-2) * unit", GUIDES),
    (
        "guides/low_rank_normal.py",
        "LowRankMultivariateNormal(loc, factor, scale.square())",
        "LowRankMultivariateNormal(loc, factor, scale)",
        GUIDES,
    ),
    ("guides/hmc.py", "log_heats.diff()", "-log_heats.diff()", GUIDES),
    ("guides/hmc.py", "log_heat.exp().expand_as(start.scale)", "torch.ones_like(start.scale)", GUIDES),
    ("guides/semi_amortized.py", "params + self.lr *", "params - self.lr *", GUIDES),
    ("guides/semi_amortized.py", "- q.log_prob(z)).mean(0)", ").mean(0)", GUIDES),
    ("guides/semi_amortized.py", "follow=self.unrolled", "follow=True", GUIDES),
    ("guides/semi_amortized.py", "sum(own, keepdim=True)", "sum()", GUIDES),
    ("guides/categorical.py", "and self.training", "", GUIDES),
    ("priors/categorical.py", "nn.Parameter(logits)", "nn.Parameter(logits, requires_grad=False)", GUIDES),
    ("priors/vamp.py", "log_prob.logsumexp(-1) - math.log(len(self.inputs))", "log_prob.logsumexp(-1)", PRIORS),
    ("priors/vamp.py", "torch.randint(len(self.inputs), shape", "torch.randint(1, shape", PRIORS),
    ("priors/vamp.py", "low + (high - low) * self.raw.sigmoid()", "low + high * self.raw.sigmoid()", PRIORS),
    ("priors/mixture_of_normals.py", "self.log_scales.exp()", "self.log_scales.exp() ** 2", PRIORS),
    ("models/layered_guides.py", "a.scale**-2 + b.scale**-2", "a.scale**-1 + b.scale**-1", HIERARCHY),
    ("models/layered_guides.py", "Normal(loc, precision.rsqrt())", "Normal(loc, precision.reciprocal())", HIERARCHY),
    ("models/layered_guides.py", "layer.posterior(found[-1] if found else x)", "layer.posterior(x)", HIERARCHY),
    ("models/hierarchical.py", "torch.cat(list(latents), -1) if self.skip", "latents[-1] if self.skip", HIERARCHY),
    (
        "distributions/augmented.py",
        "-self.reverse(z).log_prob(a)",
        "self.reverse(z).log_prob(a)",
        ["tests/test_guides.py"],
    ),
    (
        "objectives/elbo.py",
        "_log_prob(site).sum() for site in sites(guide_trace)",
        "_log_prob(site).sum() for site in sites(guide_trace) if not site['is_observed']",
        ["tests/test_guides.py", "tests/test_objectives.py", "tests/test_per_datum_objectives.py"],
    ),
    (
        "training/refit.py",
        "module.requires_grad_(False).eval()",
        "module.requires_grad_(False)",
        ["tests/test_refit.py"],
    ),
    ("training/refit.py", "parameter.requires_grad_(True)", "pass", ["tests/test_refit.py"]),
    (
        "_core/owners.py",
        "if not parameters or any(p.requires_grad for p in parameters):",
        "if True:",
        ["tests/test_refit.py"],
    ),
    (
        "experiments/experiment.py",
        "load_model(vae, RunFolder(model_from))",
        "pass",
        ["tests/test_cli.py", "-k", "refit"],
    ),
    ("evaluation/result.py", "difference.std() / math.sqrt(len(difference))", "difference.std()", ESTIMATORS),
    ("objectives/programs.py", "(), tie_weights=False)", "())", SHARED),
    ("objectives/elbo.py", "_Weights(beta, beta)(guide)", "_Weights(self.reconstruction_weight, beta)(guide)", SHARED),
    ("priors/vamp.py", "self._chosen(sample_shape).rsample()", "self._chosen(sample_shape).sample()", SHARED),
    ("_core/traces.py", "kinds[0] != kinds[1]", "False", SHARED),
    ("flows/tanh.py", "return by_r, -by_r * h", "return by_r.detach(), -by_r * h", SHARED),
    ("flows/autoregressive.py", "z.expand(*z_i.shape, i)", "z", SHARED),
]


def survives(path: str, old: str, new: str, tests: list[str]) -> bool:
    """Whether the tests pass with the bug in place."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("pyro_vae", "tests", "setup.cfg"):
            source, target = ROOT / name, Path(folder) / name
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        file = Path(folder) / "pyro_vae" / path
        text = file.read_text()
        if text.count(old) != 1:
            raise ValueError(f"mutants: the text must occur once in {path}, got {text.count(old)} times: {old!r}.")
        file.write_text(text.replace(old, new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONPATH": folder}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode == 0


def main() -> int:
    """Try every mutant; the number that no test noticed."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    mutants = [mutant for mutant in MUTANTS if wanted in mutant[0]]
    alive = 0
    for path, old, new, tests in mutants:
        lives = survives(path, old, new, tests)
        alive += lives
        print(f"{'SURVIVES' if lives else 'killed  '} {path}: {old}  ->  {new}", flush=True)
    print(f"{len(mutants) - alive} of {len(mutants)} killed")
    return alive


if __name__ == "__main__":
    sys.exit(main())
