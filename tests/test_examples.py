"""Every example runs with small arguments and prints the results that its docstring announces."""

import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

ARGS = {
    "adgm.py": ["--epochs", "1", "--draws", "1", "--hidden", "20"],
    "compare_guides.py": ["--epochs", "1", "--images", "20", "--num-samples", "50", "--hidden", "20"],
    "compress.py": ["--epochs", "2", "--latent-dim", "2", "--num-samples", "10"],
    "conditional.py": ["--epochs", "2", "--num-samples", "20", "--hidden", "20"],
    "counts.py": ["--epochs", "2", "--num-samples", "20", "--hidden", "20"],
    "fast_svi.py": ["--epochs", "2", "--documents", "200"],
    "fooled.py": ["--epochs", "10"],
    "frey_faces.py": ["--epochs", "3", "--num-samples", "50"],
    "inference_gaps.py": ["--epochs", "3", "--images", "6", "--num-samples", "50", "--num-steps", "40"],
    "latents.py": ["--epochs", "3"],
    "missing.py": ["--epochs", "2", "--num-samples", "50"],
    "m1_features.py": ["--epochs", "2", "--labels", "30", "--seeds", "0", "1"],
    "m1_m2.py": ["--epochs", "8", "--m1-epochs", "3", "--num-samples", "20"],
    "naive_estimator.py": ["--epochs", "10", "--num-images", "50", "--num-samples", "10", "100", "1000"],
    "pixel_cnn.py": ["--epochs", "1", "--channels", "4", "--layers", "1", "--num-samples", "20"],
    "pixel_vae.py": ["--epochs", "1", "--channels", "4", "--num-samples", "5", "--fields", "2"],
    "ppca.py": ["--epochs", "40", "--num-samples", "100"],
    "six_ways.py": ["--epochs", "1", "--em-epochs", "1", "--iterations", "2", "--components", "5", "--hidden", "10"],
    "ss_vae_m2.py": ["--epochs", "8", "--draws", "2"],
    "svi_loop.py": ["--epochs", "4", "--num-samples", "50"],
    "two_modes.py": ["--epochs", "50", "--num-data", "10", "--num-samples", "2000", "--num-chains", "20"],
    "vae_digits.py": ["--epochs", "3", "--num-samples", "50"],
    "vae_mnist.py": ["--epochs", "3", "--num-samples", "50"],
}
SIGNED = r"([+-]\d+\.\d+)"
NUMBER = r"(-?\d+\.\d+(?:e[+-]\d+)?|nan|-?inf)"


@pytest.fixture(autouse=True)
def _fresh_process(clean_state):
    """Run the example with torch's default dtype, float32, as a program does."""
    torch.set_default_dtype(torch.float32)  # clean_state restores float64


def main_of(name):
    """``main`` of an example, imported from its file."""
    spec = importlib.util.spec_from_file_location(f"example_{Path(name).stem}", EXAMPLES / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def output(capsys, tmp_path, monkeypatch):
    """``output(name, *more)`` returns the output of an example, and fails if it writes an unrequested file."""

    def run(name, *more):
        folder = tmp_path / "empty"
        folder.mkdir()
        monkeypatch.chdir(folder)
        main_of(name)([*ARGS[name], *more])
        assert list(folder.iterdir()) == []
        return capsys.readouterr().out

    return run


def numbers(text, pattern):
    """Return the finite numbers in the only match of ``pattern``, in which NUMBER matches a number."""
    matches = re.findall(pattern.replace("NUMBER", NUMBER), text)
    assert len(matches) == 1, (pattern, text)
    values = [float(value) for value in (matches[0] if isinstance(matches[0], tuple) else matches)]
    assert all(map(math.isfinite, values)), (pattern, text)
    return values


def test_every_example_is_in_the_list():
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(ARGS)


@pytest.mark.parametrize("name", ARGS)
def test_is_short_and_documents_its_command(name):
    text = (EXAMPLES / name).read_text()
    assert len(text.splitlines()) < 150
    assert f"python examples/{name}" in text


@pytest.mark.parametrize("name", ARGS)
def test_help(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main_of(name)(["--help"])
    assert caught.value.code == 0
    assert "--epochs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "args"),
    [(name, ["--epochs", wrong]) for name in ARGS for wrong in ("0", "-1", "many")]
    + [
        ("ppca.py", ["--latent-dim", "10", "--data-dim", "10"]),
        ("ppca.py", ["--num-data", "10", "--data-dim", "10"]),
        ("naive_estimator.py", ["--num-samples", "10", "0"]),
        ("vae_mnist.py", ["--batch-size", "1351"]),
        ("fooled.py", ["--validation", "149"]),
        ("frey_faces.py", ["--root", "no/such/folder"]),
        ("adgm.py", ["--labels", "5"]),
        ("adgm.py", ["--alpha", "-1"]),
        ("m1_features.py", ["--labels", "19"]),
        ("m1_features.py", ["--labels", "1350"]),
        ("m1_features.py", ["--scale", "0"]),
        ("m1_m2.py", ["--labels", "0"]),
        ("ss_vae_m2.py", ["--draws", "0"]),
        ("fast_svi.py", ["--batch-size", "1"]),
        ("fast_svi.py", ["--documents", "150"]),
        ("fast_svi.py", ["--documents", "50"]),
    ],
)
def test_bad_arguments_are_usage_errors(name, args, capsys):
    with pytest.raises(SystemExit) as caught:
        main_of(name)(args)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_six_ways_prints_a_row_for_each(output, tmp_path):
    text = output("six_ways.py", "--figure", str(tmp_path / "codes.png"))
    assert len(re.findall(r"^(?:mixture|autoencoder|rate|VAE|decoder).* -?\d+\.\d\d", text, re.MULTILINE)) == 7
    assert (tmp_path / "codes.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_fooled_rejects_the_images_that_fool_classifiers(output, tmp_path):
    text = output("fooled.py", "--out", str(tmp_path / "figures"))
    assert len(re.findall(r"^fooling .* 100.00%$", text, re.MULTILINE)) == 2, text
    assert len(numbers_of := re.findall(r"class \d: classifier (\S+),", text)) == 20
    assert all(float(number) > 0.9 for number in numbers_of[:10]), text
    (share,) = numbers(text, r"test digits .* NUMBER%")
    assert share < 5
    assert (tmp_path / "figures" / "fooled.png").is_file()


@pytest.mark.slow
def test_ppca(output):
    text = output("ppca.py")
    errors = [float(error) for error in re.findall(r"largest .* = (\S+) nats", text)]
    assert len(errors) == 3
    assert all(error < 1e-9 for error in errors), text
    (best,) = numbers(text, r"maximum likelihood +NUMBER nats per datum, exact")
    (trained,) = numbers(text, r"trained VAE +NUMBER nats per datum, exact")
    estimate, error = numbers(text, r"importance estimate of it +NUMBER \+- NUMBER nats")
    (elbo,) = numbers(text, r"its ELBO +NUMBER nats")
    assert trained <= best + 1e-9  # no W, b, sigma do better on these data
    assert trained > best - 1.0
    assert abs(estimate - trained) / error < 4.5 or 0 < trained - estimate < 0.01  # the bias of 100 samples
    assert elbo < estimate


def test_pixel_cnn(output):
    text = output("pixel_cnn.py")
    _, noise, _ = numbers(text, r"VAE +bound NUMBER \+- NUMBER Monte Carlo, \+- NUMBER over data")
    _, exact, _ = numbers(text, r"gated PixelCNN exact NUMBER \+- NUMBER Monte Carlo, \+- NUMBER over data")
    assert noise > 0 == exact
    assert "the same images" in text
    rows = re.findall(r"^[.#]{8}(?:   [.#]{8}){7}$", text, re.MULTILINE)
    assert len(rows) == 16
    assert rows[:4] == rows[8:12]  # the upper halves


def test_pixel_vae(output):
    text = output("pixel_vae.py")
    pattern = r"field 2: log-likelihood NUMBER \+- NUMBER \(Monte Carlo\), ELBO NUMBER, rate NUMBER"
    estimate, _, elbo, _ = numbers(text, pattern)
    assert elbo < estimate
    assert len(re.findall(r"^[.#]{8}(?:   [.#]{8}){8}$", text, re.MULTILINE)) == 8


def test_naive_estimator(output):
    text = output("naive_estimator.py")
    pattern = rf"^ +(\d+) \| +{NUMBER} \+- +{NUMBER} +{NUMBER} +(\S+) \| +{NUMBER} \+- +{NUMBER} +{NUMBER} +(\S+)$"
    rows = re.findall(pattern, text, re.MULTILINE)
    assert [row[0] for row in rows] == ["10", "100", "1000"], text
    for row in rows:
        prior, prior_error, prior_size, guide, guide_error, guide_size = (float(row[i]) for i in (1, 2, 3, 5, 6, 7))
        assert prior < guide - 4.5 * math.hypot(prior_error, guide_error), text
        assert 1 <= prior_size < guide_size <= float(row[0]), text
    assert [row[4] == "n/a" for row in rows] == [True, False, False]
    assert numbers(text, r"rate .*: NUMBER \+- NUMBER nats")[0] > 0


def check_result(text):
    """A printed LogLikelihood: log-likelihood above the ELBO, which is -(distortion + rate)."""
    (value,) = numbers(text, r"log-likelihood +NUMBER nats per datum")
    assert all(error > 0 for error in numbers(text, r"\+- NUMBER Monte Carlo, \+- NUMBER over data"))
    elbo, distortion, rate = (numbers(text, rf"{n} +NUMBER \+-")[0] for n in ("elbo", "distortion", "rate"))
    assert elbo < value < 0
    assert rate > 0
    assert abs(elbo + distortion + rate) < 0.002  # three rounded numbers
    return value


def test_vae_digits(output):
    assert check_result(output("vae_digits.py")) > -35  # 64 log(2) = 44 with fair coins as pixels


def test_vae_digits_saves_figures_to_the_given_folder(output, tmp_path):
    output("vae_digits.py", "--out", str(tmp_path / "figures"))
    figures = list((tmp_path / "figures").glob("*.png"))
    assert len(figures) >= 4
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)


@pytest.mark.slow
def test_compress(output):
    sizes = {name: numbers(output_line, "NUMBER$")[0] for name, output_line in rows(output("compress.py"))}
    assert 1 < sizes["diagonal"] < sizes["gzip"]
    assert sizes.keys() == {"diagonal", "full-rank", "mixture", "gzip", "bz2", "lzma"}


def rows(text):
    return [(line.split()[0], line) for line in text.splitlines() if not line.startswith("guide")]


@pytest.mark.slow
def test_latents(output, tmp_path):
    text = output("latents.py", "--out", str(tmp_path / "figures"))
    lengths = {path: numbers(text, rf"(?m)^{path} +NUMBER$")[0] for path in ("lerp", "slerp", "prior", "geodesic")}
    assert lengths["geodesic"] == min(lengths.values()) > 0
    assert numbers(text, "AUROC NUMBER on")[0] > 0.5
    assert numbers(text, "there and back: largest change NUMBER")[0] < 1e-5
    saved = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert saved == {"interpolation", "traversal", "j_diagram", "mine", "midpoint", "posteriors"}


def test_vae_mnist(output):
    text = output("vae_mnist.py")
    check_result(text)
    assert "protocol: Digits, dynamic binarization" in text


def test_vae_mnist_on_mnist(output):
    if not (SHARED / "MNIST" / "raw").is_dir():
        pytest.skip(f"needs MNIST in {SHARED}, which is absent")
    args = ["--root", str(SHARED), "--epochs", "1", "--batch-size", "1000", "--num-images", "100"]
    text = output("vae_mnist.py", *args)
    assert check_result(text) > -250
    assert "protocol: MNIST, dynamic binarization" in text


@pytest.mark.slow
def test_ss_vae_m2_is_measured_against_its_classifier_alone(output, tmp_path):
    text = output("ss_vae_m2.py", "--out", str(tmp_path / "figures"))
    rows = re.findall(rf"^draw (\d): {NUMBER}%, {NUMBER}%$", text, re.MULTILINE)
    assert [row[0] for row in rows] == ["0", "1"], text
    for name, place in (("labels alone", 1), ("M2", 2)):
        (mean, _) = numbers(text, rf"{name}: +NUMBER \+- NUMBER \(95%")
        assert abs(mean - sum(float(row[place]) for row in rows) / 2) < 0.011, text
    assert all(0 < float(value) < 60 for row in rows for value in row[1:]), text  # 90% is chance
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"analogies", "confusion", "reliability"}


@pytest.mark.slow
def test_m1_m2_is_a_model_of_the_images(output):
    text = output("m1_m2.py")
    (error, _) = numbers(text, r"^(?s:.*)error +NUMBER \+- NUMBER %")
    assert 0 < error < 85, text
    values = [numbers(text, rf"(?m)^{name}: log p\(x\) >= NUMBER \+- NUMBER")[0] for name in ("M1", r"M1\+M2")]
    assert all(-64 * math.log(2) < value < 0 for value in values), text


@pytest.mark.slow
def test_m1_features_compares_every_classifier(output):
    text = output("m1_features.py")
    cell = rf"{NUMBER} \+- {NUMBER}"
    rows = re.findall(rf"^(.+?) +{cell} +{cell} +{cell}$", text, re.MULTILINE)
    assert len(rows) == 5, text
    for row in rows:
        assert abs(float(row[3]) - float(row[1]) - float(row[5])) < 0.011, text


def test_adgm_trains_all_three(output):
    rows = re.findall(rf"^(M2|ADGM|SDGM) +{NUMBER} \(1 draw\)", output("adgm.py"), re.MULTILINE)
    assert [name for name, _ in rows] == ["M2", "ADGM", "SDGM"]
    assert all(0 < float(error) < 100 for _, error in rows)


def test_svi_loop_trains_both(output):
    text = output("svi_loop.py")
    losses = re.findall(rf"first epoch {NUMBER}, of the last {NUMBER} \(train", text)
    assert len(losses) == 2, text
    assert all(float(last) < float(first) - 0.5 for first, last in losses), text
    rows = re.findall(rf"log-likelihood {NUMBER} \+- {NUMBER} Monte Carlo, \+- {NUMBER} over data; ELBO {NUMBER}", text)
    assert len(rows) == 2, text
    assert all(-40 < float(elbo) < float(value) < 0 for value, *_, elbo in rows), text


@pytest.mark.slow
def test_fast_svi_is_the_same_training(output):
    text = output("fast_svi.py")
    assert text.startswith("4 steps;")
    rows = re.findall(
        rf"^(.+?) +{NUMBER} ms per step, +{NUMBER} s before the first; ELBO {NUMBER}$", text, re.MULTILINE
    )
    assert [row[0] for row in rows] == ["SVI", "SVI, validation off", "fit", "build_engine"], text
    elbo = {name: float(value) for name, _, _, value in rows}
    assert elbo["SVI"] == elbo["SVI, validation off"]
    assert abs(elbo["build_engine"] - elbo["SVI"]) < 0.01  # the same random numbers, another rounding
    assert abs(elbo["fit"] - elbo["SVI"]) < 5  # another order of the batches
    assert "engine=compiled" in text
    assert all(error < 1e-4 for error in numbers(text, r"difference from Trace_ELBO: loss NUMBER, gradient NUMBER"))


def test_compare_guides_fits_every_guide_to_one_model(output, tmp_path):
    folder = ["--out", str(tmp_path / "comparison")]
    two = ["--guides", "DiagonalNormalGuide", "IAFGuide"]
    text = output("compare_guides.py", *two, *folder)
    saved = {path.name: path.read_bytes() for path in (tmp_path / "comparison").iterdir()}
    assert {"table.txt", "guides.png", "DiagonalNormalGuide.json"} <= saved.keys()
    rows = re.findall(rf"^(.+?) +ELBO +{NUMBER} \(gain {SIGNED}", text, re.MULTILINE)
    assert [name for name, _, _ in rows] == ["DiagonalNormalGuide", "IAFGuide"], text
    assert float(rows[0][2]) == 0


@pytest.mark.slow
def test_compare_guides_lists_every_guide_and_resumes(capsys, tmp_path):
    folder = ["--out", str(tmp_path / "comparison")]
    main_of("compare_guides.py")([*ARGS["compare_guides.py"], *folder])
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "comparison").glob("*.json")}
    from pyro_vae import guides
    from tests.test_contracts import concrete

    compared = re.findall(r"^(\w+).*: \d+ s$", capsys.readouterr().out, re.MULTILINE)
    unlike = ("discrete", "implicit", "deterministic", "bounded")
    comparable = {cls.__name__ for cls in concrete(guides) if not any(getattr(cls, name) for name in unlike)}
    assert set(compared) == comparable
    assert len(compared) == len(first)
    main_of("compare_guides.py")([*ARGS["compare_guides.py"], *folder])
    text = capsys.readouterr().out
    assert text == (tmp_path / "comparison" / "table.txt").read_text()
    assert first == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "comparison").glob("*.json")}


@pytest.mark.slow
def test_inference_gaps_splits_the_gap_of_every_guide(output, tmp_path):
    text = output("inference_gaps.py", "--out", str(tmp_path / "gaps"))
    cell = rf"{NUMBER} \+- {NUMBER} +"
    rows = re.findall(rf"^(.+?) +{cell * 4}(\d+)%$", text, re.MULTILINE)
    assert [row[0] for row in rows] == ["diagonal normal", "full-rank normal", "diagonal, small encoder"], text
    for _, bound, _, elbo, _, approximation, _, amortization, _, share in rows:
        gaps = float(approximation) + float(amortization)
        assert abs(float(bound) - float(elbo) - gaps) < 0.003  # four rounded numbers
        assert abs(float(share) / 100 - float(amortization) / gaps) < 0.01
    assert len({row[1] for row in rows}) == 1  # one log p(x)
    saved = {path.name for path in (tmp_path / "gaps").iterdir()}
    assert saved == {"gaps.png", "diagonal-normal.json", "full-rank-normal.json", "diagonal-small-encoder.json"}


@pytest.mark.slow
def test_two_modes(output):
    text = output("two_modes.py")
    cells = rf"{NUMBER} +{NUMBER} +{SIGNED} \+- +{NUMBER} +(\S+) +(\d+)?(?:%|n/a)"
    rows = {name: row for name, *row in re.findall(rf"^(.+?) +{cells}$", text, re.MULTILINE)}
    error, noise = ({name: float(row[i]) for name, row in rows.items()} for i in (2, 3))
    guide, two, three, four = (
        f"importance, {n}" for n in ("one-mode guide", "two guides mixed", "scale x 3", "scale x 4")
    )
    for name, (value, exact, *_) in rows.items():
        assert abs(float(value) - float(exact) - error[name]) < 0.002  # three rounded numbers
    for name in (two, "importance, prior", "annealed from the prior"):
        assert abs(error[name]) < 4.5 * noise[name] + 0.001, text
    for name in (guide, "annealed from the guide"):  # wrong by half of p(x), with small error estimates
        assert abs(error[name] + math.log(2)) < 4.5 * noise[name] + 0.005, text
    assert noise[guide] < 0.005 < 0.02 < noise[four], text
    assert all(rows[name][5] == "0" for name in (guide, two))
    assert float(rows[guide][4]) < 0.5 < 0.7 < float(rows[four][4])
    assert int(rows[three][5]) > 0
    assert int(rows[four][5]) > 50
    gap, gap_error = numbers(text, r"sandwich from the prior: gap NUMBER \+- NUMBER nats")
    assert abs(gap) < 4.5 * gap_error < 0.5, text
    assert numbers(text, r"sandwich from the guide: gap NUMBER \+- NUMBER nats")[0] > 1
    jumps = [numbers(text, rf"{name}, five seeds: highest - lowest NUMBER nats")[0] for name in (guide, four)]
    assert jumps[1] > 0.1 > 0.01 > jumps[0], text
    assert "data have a Pareto k above 0.7" in text


def check_grey(text, levels):
    logistic = text[text.index("DiscretizedLogisticLikelihood") :]
    elbo, _ = numbers(logistic, r"-ELBO +NUMBER \+- NUMBER bits per dimension")
    value, error = numbers(logistic, r"-log p\(x\) +NUMBER \+- NUMBER bits per dimension")
    assert 0 < value < elbo < math.log2(levels)  # shorter than a uniform code
    assert error > 0
    density = text[text.index("NormalLikelihood") : text.index("DiscretizedLogisticLikelihood")]
    assert (
        numbers(density, r"-log p\(x\) +NUMBER \+- NUMBER nats")[0] < numbers(density, r"-ELBO +NUMBER \+-.* nats")[0]
    )


@pytest.mark.slow
def test_counts(output):
    text = output("counts.py")
    cells = rf"log-likelihood +{NUMBER} \+- {NUMBER} +ELBO +{NUMBER} +gain +{SIGNED} \+- {NUMBER}"
    rows = {name: list(map(float, row)) for name, *row in re.findall(rf"^(.+?) +{cells}$", text, re.MULTILINE)}
    assert list(rows) == ["Poisson", "negative binomial", "zero-inflated negative binomial", "beta-binomial"], text
    for value, _, elbo, gain, error in rows.values():
        assert elbo < value < 0
        assert abs(value - rows["Poisson"][0] - gain) < 0.002  # three rounded numbers
        assert math.isfinite(error)
    assert rows["Poisson"][3:] == [0, 0]


def test_missing(output):
    text = output("missing.py")
    numbers(text, r"log p\(x observed\) NUMBER \+- NUMBER nats per row")
    assert 30 < numbers(text, r"contain NUMBER% of the deleted entries")[0] < 100
    for name in ("KNNImputer", "IterativeImputer", "VAE"):
        assert 0.5 < numbers(text, rf"{name} +error NUMBER")[0] < 1.5


def test_frey_faces(output):
    text = output("frey_faces.py")
    assert text.startswith("Digits, 297 test images")
    check_grey(text, levels=17)


def test_frey_faces_on_frey_faces(output):
    if not (SHARED / "FreyFaces").is_dir():
        pytest.skip(f"needs Frey Faces in {SHARED}, which is absent")
    text = output("frey_faces.py", "--root", str(SHARED))
    assert text.startswith("FreyFaces, 200 test images")
    check_grey(text, levels=256)


def test_examples_do_not_change_the_path():
    assert [path.name for path in EXAMPLES.glob("*.py") if "sys.path" in path.read_text()] == []
