"""Benchmarks run on tiny models, record what they print, and count operations as textbooks do."""

import ast
import importlib
import json
import math
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pyro
import pytest
import torch

from pyro_vae import Faces
from pyro_vae.data import ImageSet
from tests.linear_gaussian import LinearGaussian

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = ["--date", "2000-01-01", "--latent-dim", "2"]
SPEED = ["--programs", "mlp", "--width", "8", "--batch", "4", "--repeats", "1", "--seconds", "0.01", "--pool", "3"]
LIKELIHOOD = ["--width", "8", "--images", "8", "--batch", "4", "--num-samples", "20", "--repeats", "1", "--epochs", "1"]
PYRO = ("Pyro SVI.step", "Pyro SVI.step, no validation", "Pyro JitTrace_ELBO")


@pytest.fixture(autouse=True)
def _fresh_process(clean_state):
    """Run the benchmark with torch's default dtype, float32, as a program does."""
    torch.set_default_dtype(torch.float32)  # clean_state restores float64


@pytest.fixture
def module(monkeypatch):
    """Import a file of the benchmarks with their folder on the path, as for scripts."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def run(module, monkeypatch, tmp_path, capsys, uncompiled):
    """Run a script in this process, without compiling, and return its output and its record."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    peaks = partial(module("roofline").measure_peaks, seconds=0.01)
    monkeypatch.setattr(module("roofline"), "measure_peaks", peaks)

    def run(script, args):
        record = tmp_path / "record.json"
        command = [*TINY, *args, "--out", str(record)]
        monkeypatch.setattr(sys, "argv", [script, *command])
        module(script.removesuffix(".py")).main(command)
        return capsys.readouterr().out, json.loads(record.read_text())

    return run


def strings(value):
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        return [s for part in value for s in strings(part)]
    return [value] if isinstance(value, str) else []


def check_record(record, script):
    assert [s for s in strings(record) if re.search(r"(^|[\s='\"])[/~]", s)] == []  # no absolute path
    assert record["date"] == "2000-01-01"
    assert record["command"].startswith(f"python benchmarks/{script} --date 2000-01-01")
    assert record["machine"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.parametrize("folder", ["benchmarks", "examples"])
def test_scripts_import_nothing_from_other_folders_of_the_repository(folder) -> None:
    """``python benchmarks/NAME.py`` finds its own folder and what is installed."""
    scripts = sorted((BENCHMARKS.parent / folder).glob("*.py"))
    assert scripts
    for script in scripts:
        nodes = list(ast.walk(ast.parse(script.read_text())))
        modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
        assert {name.partition(".")[0] for name in modules}.isdisjoint({"tools", "tests", "benchmarks"}), script.name


@pytest.mark.filterwarnings("ignore")  # of Pyro's JitTrace_ELBO
def test_speed(run, tmp_path, module):
    text, record = run("speed.py", SPEED)
    check_record(record, "speed.py")
    (case,) = record["cases"]
    candidates = {c["name"]: c for c in case["candidates"]}
    measured = {name for name, c in candidates.items() if c["milliseconds"]}
    assert measured >= {*PYRO, "torch eager", "torch compiled", "pyro_vae eager", "pyro_vae compiled"}
    for name in measured:
        low, middle, high = candidates[name]["milliseconds"]
        assert 0 < low <= middle <= high
        row = next(line for line in text.splitlines() if re.match(rf"mlp +8 +4 +{re.escape(name)}  ", line))
        assert f"{middle:.3g} [{low:.3g}, {high:.3g}]" in row
        assert candidates[name]["note"] == ""  # no engine fell back
    assert candidates["Pyro SVI.step"]["speedup"] == [1, 1, 1]
    assert re.search(r"^mlp +8 +4 +13,396 ", text, re.MULTILINE)  # the roofline
    record["cases"].append({**case, "batch": 8})
    record["ranks"] = [{"program": "mlp", "batch": 4, "ranks": n, "examples_per_second": [1, 2, 3]} for n in (1, 2)]
    figures = module("plots").draw(record, tmp_path / "figures")
    assert [figure.name for figure in figures] == ["mlp-batch.png", "mlp-ranks.png"]
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in figures)


def test_likelihood(run):
    text, record = run("likelihood.py", LIKELIHOOD)
    check_record(record, "likelihood.py")
    (case,) = record["cases"]
    assert len(case["estimators"]) == 10
    for estimator in case["estimators"]:
        assert f"20       {estimator['name']}  " in text
        assert estimator["milliseconds_per_image"][1] > 0
        assert len(estimator["ratios"]) == 4
        assert estimator["ratios"].get(estimator["name"], [1, 1, 1]) == [1, 1, 1]
        if "copies" in estimator["name"]:  # other draws
            assert abs(estimator["off_by"]) < 4.5 * 2**0.5 * estimator["monte_carlo_error"]
        elif "products" not in estimator["name"]:
            assert estimator["largest_difference"] < (1 if "bf16" in estimator["name"] else 0.01)


def test_image_by_image_is_unbiased(module):
    """If the encoder is the prior and the decoder ignores z, the mean weight is p(x | z) in closed form."""
    estimators, pair = module("estimators"), module("programs").mlp(8, 2)
    with torch.no_grad():
        for layer in (pair.guide.net.layers[-1], pair.model.likelihood.net.layers[-1]):
            layer.weight.zero_()
            layer.bias.zero_()
    x = torch.bernoulli(torch.full((4, 784), 0.5))
    values, errors = estimators.image_by_image(pair, estimators.Clock(x, 2), 7, 0, replicas=3)
    assert values.tolist() == pytest.approx([-784 * math.log(2)] * 4, rel=1e-6)
    assert errors.tolist() == pytest.approx([0] * 4, abs=1e-3)


def test_the_products_are_those_of_the_decodings(module):
    estimators, pair = module("estimators"), module("programs").mlp(8, 2)
    x = torch.zeros(8, 784)
    products = estimators.Products(pair, 4)
    work = module("roofline").work_of(lambda: products.run(estimators.Clock(x, 4), 20, 3))
    assert work.operations == 2 * 20 * 8 * (2 * 8 + 8 * 784)  # two per weight, sample and image
    assert products.best_chunk(5, x.device) == 5


@pytest.mark.slow
def test_memory(module):
    memory = module("memory")._in_new_process("eager", 20, {"width": 8, "latent_dim": 2, "batch": 4, "chunk": 5})
    assert 50 < memory["before"] <= memory["peak"] < 1024


def test_memory_that_grows_with_the_samples_fails(module, monkeypatch):
    memory = module("memory")
    for growth, fine in ((0, True), (100, False)):
        rows = {20: {"before": 500.0, "peak": 600.0}, 200: {"before": 500.0, "peak": 600.0 + growth}}
        monkeypatch.setattr(memory, "_in_new_process", lambda engine, n, sizes, rows=rows: rows[n])
        with nullcontext() if fine else pytest.raises(AssertionError, match="memory grows"):
            assert len(memory.measure_memory((200, 20), width=8)) == 4


def test_work_is_the_textbook_count(module):
    """784-W-L and back: 2mnk per product, twice backward but for the gradient by the data; Adam moves 7 tensors."""
    roofline, (width, latent, batch) = module("roofline"), (8, 2, 4)
    pair = module("programs").mlp(width, latent)
    x = torch.bernoulli(torch.full((batch, 784), 0.5))
    loss = pair.pyro_loss().differentiable_loss(pair.model, pair.guide, x)
    work = roofline.work_of(lambda: pair.pyro_loss().differentiable_loss(pair.model, pair.guide, x).backward())
    products = 784 * width + width * 2 * latent + latent * width + width * 784
    assert loss > 0
    assert work.operations == 2 * batch * (3 * products - 784 * width)
    total = sum(p.numel() for p in pair.parameters())
    assert roofline.adam(pair.parameters()) == roofline.Work(0, 7 * 4 * total)
    peaks = roofline.Peaks(operations=1e9, bandwidth=1e9, memory_bandwidth=1.0)
    assert peaks.seconds(roofline.Work(2e9, 1e9)) == 2
    assert peaks.limit(roofline.Work(1, 2)) == "memory"


def test_bytes_of_a_product(module):
    a, b = torch.ones(2, 3), torch.ones(3, 5)
    assert module("roofline").work_of(lambda: (a @ b).tanh()) == module("roofline").Work(
        2 * 2 * 3 * 5, 4 * (6 + 15 + 10)
    )


@pytest.mark.parametrize("name", ["mlp", "iaf", "m2", "hvae", "conv"])
def test_programs_train_under_svi(name, module):
    pair = module("programs").PROGRAMS[name](8, 4)
    x = torch.bernoulli(torch.full((1, 4, *pair.data_shape), 0.5))
    candidate = module("baselines").svi(name, pair, x, pair.pyro_loss, validate=True)
    assert len(pair.parameters()) == len({id(p) for p in pair.parameters()})
    losses = candidate.run(range(30))
    assert losses[-1] < losses[0]
    pyro.set_rng_seed(0)
    candidate.reset()
    first = candidate.run(range(3))
    pyro.set_rng_seed(0)
    candidate.reset()
    assert candidate.run(range(3)) == first


@pytest.mark.parametrize("seeded", [True, False])
def test_the_check_rejects_another_loss(seeded, module):
    pair = module("programs").mlp(8, 2)
    pool = torch.bernoulli(torch.full((3, 4, 784), 0.5))
    reference = module("baselines").svi("Pyro", pair, pool, pair.pyro_loss, validate=True)
    same, other = (module("baselines").by_hand("torch", pair, pool) for _ in range(2))
    same.seeded = other.seeded = seeded
    run = other.run
    other.run = lambda steps: [1.001 * loss for loss in run(steps)] if seeded else [1.1 * loss for loss in run(steps)]
    check = module("candidates").check
    check([reference, same], 4)
    with pytest.raises(AssertionError, match="torch: losses"):
        check([reference, same, other], 4)


def test_groups_of_steps_are_the_same_steps(module):
    """Run the batches of the CUDA-graph engine by the eager one."""
    pair, engines = module("programs").mlp(8, 2), module("our_engines")
    pool = torch.bernoulli(torch.full((3, 4, 784), 0.5))
    candidate = engines.engine_candidate("eager", pair, pool, engine="eager")
    torch.manual_seed(0)
    expected = candidate.run(range(5))
    parameters = pair.parameters()
    adam = torch.optim.Adam(parameters, lr=1e-3)
    engine = engines.build_engine("eager", pair.objective(), pair.model, pair.guide, adam, parameters, args=(pool[0],))
    engine.stride = 2
    torch.manual_seed(0)
    with engines.isolated_rng():
        assert [float(v) for v in engines.grouped(engine, pool)(range(5))] == pytest.approx(
            [float(v) for v in expected]
        )


def test_the_pool_is_binary_and_different(module):
    images = module("images")
    data, digits = images.load(None)
    pool = images.pool(digits, 4, (784,), size=5)
    assert data.startswith("Digits")
    assert pool.shape == (5, 4, 784)
    assert set(pool.unique().tolist()) == {0.0, 1.0}
    assert len(pool.flatten(0, 1).unique(dim=0)) == 20
    assert len(images.pool(digits, 20_000, (784,))) == 3  # no more than MNIST's images


def test_the_command_names_no_folder(module):
    command = module("report").command(["/here/benchmarks/speed.py", "--root", "/there/data", "--out=../x/y.json"])
    assert command == "python benchmarks/speed.py --root data --out=y.json"


def _script(script, *args, folder):
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / script), *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=600)


def test_conditional(run, tmp_path):
    sizes = ["--width", "8", "--epochs", "1", "--images", "20", "--num-samples", "5", "--plot", str(tmp_path / "plot")]
    text, record = run("conditional.py", sizes)
    assert record["date"] == "2000-01-01"
    rows = {row["model"]: row for row in record["rows"]}
    assert list(rows) == list(record["trainings"]) == ["tutorial's baseline", "tutorial's CVAE", "ConditionalVAE"]
    for name, row in rows.items():
        assert -588 < row["log_p"] < 0  # of the three quadrants
        assert f"{row['log_p']:.2f}" in text
        assert row["gain"] == pytest.approx(row["log_p"] - rows["tutorial's CVAE"]["log_p"], abs=1e-6), name
        assert row.get("elbo", -math.inf) < row["log_p"]
    assert (tmp_path / "plot" / "completions.png").exists()


@pytest.mark.usefixtures("uncompiled")
def test_epochs_are_timed_against_their_steps(tmp_path, module, capsys):
    args = ["--num_data", "300", "--batch", "100", "--width", "8", "--repeats", "1", "--date", "2000-01-01"]
    args += ["--candidates", "torch by hand, DataLoader", "pyro_vae compiled", "--out", str(tmp_path / "record.json")]
    module("epoch").main(args)
    record = json.loads((tmp_path / "record.json").read_text())
    rows = {row["name"]: row for row in record["candidates"]}
    assert rows.keys() == {"Pyro SVI, DataLoader", "torch by hand, DataLoader", "pyro_vae compiled", "bare steps"}
    steps, ours = rows["bare steps"], rows["pyro_vae compiled"]
    assert ours["of_steps"][1] == pytest.approx(ours["seconds"][1] / steps["seconds"][1])
    assert "pyro_vae compiled" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
def test_the_gpu_script_is_rehearsed_on_a_cpu_and_continues_where_it_stopped(tmp_path, module, capsys):
    gpu, out = module("gpu"), tmp_path / "gpu"
    args = ["--device", "cpu", "--minutes", "3", "--small", "--out", str(out)]
    status = gpu.main(args)
    parts = {name: json.loads((out / f"{name}.json").read_text()) for name in "abcd"}
    assert status == 0, {name: part["failures"] for name, part in parts.items()}
    checks = parts["a"]["checks"]
    assert {"mlp: compiled and Pyro", "mlp: device and CPU", "compiled: exact resume"} <= checks.keys()
    assert all(check["holds"] for check in checks.values())
    assert "pyro_vae eager" in parts["b"]["tables"][0]["output"]
    assert parts["c"]["mean"]["importance"] == pytest.approx(parts["c"]["mean"]["ais"], abs=20)
    assert parts["d"]["runs"][0]["status"] == 0
    (out / "c.json").unlink()
    capsys.readouterr()
    assert gpu.main([*args, "--parts", "a", "c"]) == 0
    assert (
        next(line for line in capsys.readouterr().err.splitlines() if line.startswith("part")) == "part a: done before"
    )
    assert (out / "c.json").exists()


def test_the_gpu_script_needs_a_gpu_unless_it_is_rehearsed(tmp_path):
    done = _script("gpu.py", "--minutes", "1", "--out", "gpu", folder=tmp_path)
    assert done.returncode == 2
    assert "rehearse with --device cpu --small" in done.stderr


ROW = {"seconds": 1.0, "error": -0.3, "monte_carlo_error": 0.02, "lowest": -1.0, "pareto_k_above_0.7": 0.5, "tried": []}
ACCURACY = {
    "weights": "a",
    "num_data": 3,
    "num_distributions": 5,
    "reference": {"mean": -90.0, "monte_carlo_error": 0.01},
    "threads": 1,
    "machine": {"processor": "P"},
    "date": "2000-01-01",
    "results": [
        {**ROW, "estimator": "importance, guide", "size": 64, "error": -0.5},
        {**ROW, "estimator": "importance, guide", "size": 256, "seconds": 2.0},
        {**ROW, "estimator": "importance, optimised", "size": 1024, "error": -0.03, "seconds": 0.2},
        {**ROW, "estimator": "importance, optimised", "size": 256, "error": -0.09, "seconds": 0.1},
    ],
}


def test_the_table_of_accuracies_has_the_cheapest_accurate_sizes(module, tmp_path) -> None:
    accuracy = module("accuracy")
    about, _, _, _, guide, optimised = accuracy.table(ACCURACY).splitlines()
    assert "First 3 test images" in about
    assert guide == "| importance, guide | 256 | 2.000 | -0.300 +- 0.020 | `--num_samples 256` |"
    assert optimised.startswith("| importance, optimised | 256 | 0.100 | -0.090 +- 0.020 | `--proposal optimised ")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- end of table -->\nafter\n")
    accuracy.renew(page, "new")
    assert page.read_text() == "before\n<!-- table -->\nnew\n<!-- end of table -->\nafter\n"
    accuracy.draw(ACCURACY, tmp_path / "accuracy.png")
    folder = accuracy.Folder(tmp_path, {"weights": "a", "num_data": 3, "num_distributions": 5})
    folder.record["threads"] = 1
    folder.add(ACCURACY["results"][0])
    again = accuracy.Folder(tmp_path, {"weights": "a", "num_data": 3, "num_distributions": 5})
    assert again.has("importance, guide", 64)
    assert not again.has("importance, guide", 256)
    with pytest.raises(SystemExit, match="must be of weights=b, got weights=a"):
        accuracy.Folder(tmp_path, {"weights": "b"})
    recorded = BENCHMARKS / "results/log-p-accuracy/accuracy.json"
    if recorded.exists():
        assert (
            accuracy.table(json.loads(recorded.read_text())) in (BENCHMARKS.parent / "docs/estimators.md").read_text()
        )


@pytest.mark.slow
def test_accuracies_are_measured_and_a_repeated_command_continues(module, tmp_path, monkeypatch, capsys) -> None:
    accuracy = module("accuracy")
    quick = ["--epochs", "2", "--num_samples", "5", "--latent_dim", "2", "--device", "cpu"]
    assert importlib.import_module("pyro_vae.cli.main").main(["train", *quick, "--out", str(tmp_path / "run")]) == 0
    monkeypatch.setattr(accuracy, "SAMPLES", (64,))
    monkeypatch.setattr(accuracy, "DISTRIBUTIONS", (4,))
    command = ["x", str(tmp_path / "run"), "--num-data", "3", "--reference", "30", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / "out")])
    accuracy.main()
    record = json.loads((tmp_path / "out/accuracy.json").read_text())
    assert {row["estimator"] for row in record["results"]} == set(accuracy.STYLES)
    assert all(abs(row["error"]) < 4.5 * row["monte_carlo_error"] + 0.2 for row in record["results"])
    assert (tmp_path / "out/accuracy.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    accuracy.main()
    assert "s an image" not in capsys.readouterr().out.split("|")[0]


def test_imputation_is_measured_and_a_repeated_command_continues(module, tmp_path, monkeypatch, capsys) -> None:
    benchmark = module("imputation")
    monkeypatch.setattr(benchmark, "CHECK_EVERY", 4)
    args = ["--tables", "wine", "--rates", "0.5", "--members", "1", "--steps", "8", "--out", str(tmp_path)]
    benchmark.main([*args, "--masks", "1"])
    rows = json.loads((tmp_path / "imputation.json").read_text())["results"]
    assert [row["method"] for row in rows] == ["KNNImputer", "IterativeImputer", "MIWAE"]
    assert 0.85 < rows[0]["rmse"] < 0.95  # as recorded
    assert all(0.7 < row["rmse"] < 1.2 for row in rows)
    assert 0 < rows[2]["coverage"] < 1
    benchmark.main([*args, "--masks", "2"])
    again = json.loads((tmp_path / "imputation.json").read_text())["results"]
    assert again[:1] == rows[:1]
    assert sorted(row["mask"] for row in again) == [0, 0, 0, 1, 1, 1]
    assert "| wine | 50% |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="must be of these options"):
        benchmark.main([*args[:-3], "9", "--out", str(tmp_path)])


def test_the_change_by_an_attribute_vector_is_exact_for_a_linear_model(module) -> None:
    benchmark, case = module("face_attributes"), LinearGaussian(3, 7)
    vector = torch.tensor([1.0, -2.0, 0.5])
    change = benchmark.changes(case.vae, case.data(4), vector, lambda means: 2 * means[:, :2])
    torch.testing.assert_close(change, 2 * (case.weight @ vector)[:2].expand(4, 2), rtol=1e-5, atol=1e-5)


def test_exact_densities_are_compared_and_continue_where_they_stopped(module, tmp_path, capsys, monkeypatch):
    script = module("exact_densities")
    monkeypatch.setattr(script, "TRAINED", {"PixelCNN": script.TRAINED["PixelCNN"]})
    monkeypatch.setattr(script, "SAMPLED", {"PixelCNN": script.partial(script.PixelCNN, channels=2, num_layers=1)})
    grey = torch.randint(256, (60, 1, 28, 28), dtype=torch.uint8)
    monkeypatch.setattr(script, "MNIST", lambda root, binarize: _Loaded(script.ImageSet(grey)))
    args = ["--epochs", "1", "--images", "60", "--test", "5", "--samples", "2", "--passes", "2", "--out", str(tmp_path)]
    script.main(args)
    record, lines = json.loads((tmp_path / "exact-densities.json").read_text()), capsys.readouterr().out
    (row,), (cost,) = record["trained"], record["sampled"]
    assert -196 * math.log(2) - 40 < row["log_p"] < 0
    assert f"{row['log_p']:.2f} +- " in lines
    assert cost["ratio"] == pytest.approx(cost["plain"] / cost["cached"])
    monkeypatch.setattr(script, "trained", None)  # nothing is measured again
    monkeypatch.setattr(script, "sampled", None)
    script.main(args)
    assert capsys.readouterr().out == lines
    with pytest.raises(SystemExit, match="must be of these options"):
        script.main([*args, "--lr", "1"])


@pytest.mark.slow
def test_the_claim_of_an_adversarial_bound_is_compared_with_bounds(module, tmp_path, capsys, monkeypatch):
    script = module("adversarial_bound")
    grey = torch.randint(256, (100, 1, 28, 28), dtype=torch.uint8)
    monkeypatch.setattr(script, "MNIST", lambda root: _Loaded(ImageSet(grey, dynamic=True)))
    bounds = SimpleNamespace(log_likelihood=-torch.rand(3), standard_error=torch.ones(3), gap=lambda: (0.3, 0.1))
    monkeypatch.setattr(script, "sandwich", lambda model, guide, x, **options: bounds)
    args = ["--cases", "AVB-8", "--epochs", "1", "--images", "3", "--distributions", "3", "--chains", "2"]
    script.main([*args, "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "adversarial-bound.json").read_text())["rows"]
    assert row["excess"]["mean"] == pytest.approx(row["claim"]["mean"] - float(bounds.log_likelihood.mean()))
    assert row["monte_carlo_error"] == pytest.approx(1 / math.sqrt(3))
    assert f"| AVB-8 | {row['last_epoch']['elbo']:.2f} | {row['claim']['mean']:.2f} +- " in capsys.readouterr().out
    gap = {"mean": 1.0, "error": 0.0}
    verdicts = [script.verdict({"excess": {"mean": mean, "error": 0.5}, "gap": gap}) for mean in (2.1, 1.9, -1.1)]
    assert verdicts == ["above log p(x)", "not decided", "below log p(x)"]


@pytest.mark.slow
def test_a_vae_gan_is_compared_with_a_vae_and_with_a_run(module, tmp_path, capsys, monkeypatch):
    script = module("vae_gan")
    monkeypatch.setattr(script, "Faces", lambda size: Faces(count=120, size=size))
    for name, value in (("FEATURE_STEPS", 2), ("HIDDEN", (8,)), ("CHANNELS", (2,))):
        monkeypatch.setattr(script, name, value)
    args = ["--work", str(tmp_path), "--data", "Faces", "--seeds", "3", "--epochs", "1", "--out", str(tmp_path)]
    args += ["--figure", str(tmp_path / "faces.png")]
    script.main(args)
    rows = json.loads((tmp_path / "vae-gan.json").read_text())["rows"]
    assert [(row["model"], row["seed"]) for row in rows] == [("VAE", 3), ("VAE/GAN", 3)]
    ratio = rows[1]["feature distance"] / rows[0]["feature distance"]
    first = capsys.readouterr().out
    assert f"VAE/GAN over VAE: {ratio:.2f}" in first
    monkeypatch.setattr(script, "fit", None)  # nothing is trained again
    script.main(args)
    assert capsys.readouterr().out == first[first.index("| data") :]
    assert (tmp_path / "faces.png").stat().st_size > 1000


class _Loaded:
    def __init__(self, images):
        self.train = self.test = images

    def load(self):
        return self


# ---------------------------------------------------------------- rates and errors


@pytest.mark.parametrize("data", ["fashion", "faces"])
def test_all_points_of_the_rates_are_command_lines(module, data) -> None:
    from pyro_vae.cli.train_options import parse_args

    benchmark = module("rate_distortion")
    kinds = {"w": "FactorizedPrior", "h": "HyperPrior", "b": "StandardNormalPrior"}
    for point in benchmark.POINTS[data]:
        options = parse_args(benchmark.options_of(point, data, 3), [])
        assert options.prior.class_path.endswith(kinds[point[0]])
        assert options.epochs == 3


def test_the_benchmark_of_rates_resumes_point_by_point(module, monkeypatch, tmp_path, capsys) -> None:
    benchmark = module("rate_distortion")
    quick = benchmark.ImageFeatures
    monkeypatch.setattr(benchmark, "ImageFeatures", lambda images, num_steps: quick(images, num_steps=2))
    calls = []
    original = benchmark.train
    monkeypatch.setattr(benchmark, "train", lambda **options: [calls.append(options["resume"]), original(**options)])
    words = ["--data", "faces", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--epochs", "1"]
    words += ["--points", "h100", "beta1", "--images", "20", "--data.count", "60", "--latent_dim", "20"]
    words += ["--batch_size", "21"]
    benchmark.main(words)
    assert calls == [False, False]
    first = json.loads((tmp_path / "out" / "faces.json").read_text())
    assert first["test_images"] == 20
    assert list(first["runs"]) == ["faces-h100", "faces-beta1"]
    assert first["runs"]["faces-h100"]["file_bytes"] > 0
    (tmp_path / "runs" / "faces-beta1-1-20.json").unlink()  # as if interrupted before it was measured
    benchmark.main(words)
    assert calls[2:] == [True]
    again = json.loads((tmp_path / "out" / "faces.json").read_text())
    for name, row in first["runs"].items():
        assert again["runs"][name]["squared_error"] == row["squared_error"]
