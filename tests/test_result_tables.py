"""Results as data frames, data sets of xarray and ArviZ, and as HTML."""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_vae import VAE, ConditionalVAE, log_likelihood
from pyro_vae.data import Digits
from pyro_vae.evaluation import AnnealedLogLikelihood, LogLikelihood, OutlierScores, PosteriorSamples
from pyro_vae.guides import DiagonalNormalGuide
from pyro_vae.likelihoods import BernoulliLikelihood
from pyro_vae.priors import StandardNormalPrior


@pytest.fixture
def result() -> LogLikelihood:
    torch.manual_seed(0)
    vae = VAE(StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
    return log_likelihood(vae.model, vae.guide, torch.ones(7, 5), num_samples=6, protocol={"dataset": "<a & b>"})


def test_a_row_per_datum_and_a_column_per_number(result: LogLikelihood) -> None:
    table = result.to_dataframe()
    scalars = [f.name for f in fields(result) if f.name not in ("protocol", "curve")]
    assert list(table) == [*scalars, *(f"curve[{j}]" for j in range(4))]
    assert table.index.name == "datum"
    assert table["elbo"].tolist() == result.elbo.tolist()
    assert table["curve[2]"].tolist() == result.curve[:, 2].tolist()  # type: ignore[index]
    assert table.attrs["num_samples"] == 6
    assert table["log_likelihood"].mean() == pytest.approx(result.mean(), abs=1e-9)


def test_rows_of_other_things_are_left_out() -> None:
    scores = OutlierScores(torch.ones(4, 2), torch.ones(4, 2), torch.ones(4, 2), torch.ones(3, 2), protocol={})
    assert list(scores.to_dataframe()) == ["scores[0]", "scores[1]", "p_values[0]", "p_values[1]"]
    assert dict(scores.to_xarray().sizes)["datum"] == 4
    assert scores.to_xarray()["calibration"].dims == ("calibration_dim_0", "calibration_dim_1")  # of 4 other data


def test_xarray_names_dimensions_and_keeps_the_protocol(result: LogLikelihood) -> None:
    data = result.to_xarray()
    assert data["elbo"].dims == ("datum",)
    assert data["curve"].dims == ("datum", "curve_dim_1")
    assert torch.equal(torch.from_numpy(data["curve"].values), result.curve)
    assert data.attrs["num_samples"] == 6
    assert data.attrs["discrete"] == "true"  # netCDF has no truth values


def test_arviz_gets_every_chain() -> None:
    draws = torch.randn(50, 3, 4, 2, dtype=torch.float64)
    samples = PosteriorSamples({"z": draws.flatten(0, 1)}, *torch.zeros(3, 4), num_chains=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on import, of a version to come
        posterior = samples.to_arviz().posterior
    assert dict(posterior.sizes) == {"chain": 3, "draw": 50, "datum": 4, "z_dim_0": 2}
    assert torch.equal(torch.from_numpy(posterior["z"].values), draws.transpose(0, 1))


@pytest.mark.parametrize("method", ["to_dataframe", "to_xarray"])
def test_a_missing_package_is_named(result: LogLikelihood, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {"to_dataframe": "pandas", "to_xarray": "xarray"}[method]
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"Result.{method}: {name} must be installed.*pyro-vae\[results\]"):
        getattr(result, method)()


def test_a_gain_has_name_unit_and_error(result: LogLikelihood) -> None:
    other = LogLikelihood(
        **{n: v + (n == "rate") * torch.arange(7.0) for n, v in result.tensors().items() if n != "curve"}
    )
    gain = other.gain(result, "rate")
    assert (gain.name, gain.unit, gain.value) == ("rate", "nats", pytest.approx(3.0))
    assert gain.error == pytest.approx(math.sqrt(14 / 3 / 7))
    assert tuple(gain) == (gain.value, gain.error)
    assert str(gain) == "rate: +3.000 +- 0.816 nats"


def test_html_has_the_headline_first_and_is_escaped(result: LogLikelihood) -> None:
    html = result._repr_html_()
    assert html.index(LogLikelihood.title) < html.index("log-likelihood  ") < html.index("<details>")
    assert "&lt;a &amp; b&gt;" in html
    assert "<a & b>" not in html


def test_html_of_models_data_and_advice() -> None:
    splits = Digits(validation=150).load()
    assert "validation  150 data (1, 8, 8)" in splits._repr_html_()
    assert "1350 data" in splits.train._repr_html_()
    pieces: Any = (StandardNormalPrior(2), BernoulliLikelihood(2, (5,)), DiagonalNormalGuide((5,), 2))
    for model in (VAE(*pieces), ConditionalVAE(*pieces)):
        assert f"<b>{type(model).__name__}, " in model._repr_html_()
        assert "model.likelihood  BernoulliLikelihood, 41,805 parameters" in model._repr_html_()
    bad: Tensor = torch.ones(3)
    assert (
        "warning: "
        in LogLikelihood(
            bad, bad, bad, bad, bad, bad, bad, protocol={"num_samples": 30, "discrete": True, "dimensions": 5}
        )._repr_html_()
    )
    assert AnnealedLogLikelihood.title
