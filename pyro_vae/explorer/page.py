"""The page of the explorer: one HTML file with style, scripts and the packed model."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor

from pyro_vae._core.checks import check_arguments, check_count, check_shape, require
from pyro_vae._core.contexts import isolated_rng
from pyro_vae._core.files import write_atomically
from pyro_vae._core.owners import placement
from pyro_vae._core.version import __version__
from pyro_vae.data.image_set import ImageSet
from pyro_vae.explorer.description import describe_model, steps_of
from pyro_vae.explorer.packing import Pack
from pyro_vae.explorer.statistics import describe_codes, describe_labels
from pyro_vae.latents.space import LatentSpace
from pyro_vae.models import VAE

SCRIPTS = ("unpack.js", "engine.js", "view.js", "app.js", "map.js", "drawing.js")


def explore(
    vae: Any,
    data: ImageSet | Tensor,
    out: str | Path,
    *,
    train: ImageSet | Tensor | None = None,
    attributes: Mapping[str, Tensor] | None = None,
    num_images: int = 500,
    title: str = "Explorer",
    caption: str = "",
    overwrite: bool = False,
) -> Path:
    """Write a self-contained HTML page on which the latent space of a trained model is explored in a browser.

    The page has sliders of the latent dimensions in the order of their KL, a map of the codes of ``data`` on which
    pointing decodes, traversals, a path between two images, a canvas on which a new image is drawn, encoded and
    reconstructed, samples of the prior with a temperature, a lower bound on log p(x) of the shown image, and its export
    as PNG; with M2 a button for each class; with labels a slider for the direction of each class and a classifier.

    Encoder and decoder run in the browser: the page makes no request, and a content security policy forbids any.
    Matrices are stored in half precision, which changes log p(x) by about its relative error of 2^-11 per weight;
    quantiles, KL, directions and the classifier are computed here, from the first 2,000 (quantiles and KL) or
    10,000 data of ``train``.

    Args:
        vae: a :class:`~pyro_vae.VAE` or M2, with networks of pyro_vae, a prior of normals (StandardNormalPrior,
            MixtureOfNormalsPrior, VampPrior), a DiagonalNormalGuide or FullRankNormalGuide, and a likelihood of
            independent pixels.
        data: images ``(N, C, H, W)``, C 1 or 3, or ``(N, H, W)``: those on the page, usually test images.
        out: file to write, ``.html``.
        train: images from which statistics are computed; None for ``data``. With labels, these give the directions of
            the classes and the classifier, logistic regression on codes; the page states its accuracy on ``data``.
        attributes: further directions ``(L,)`` by name, as of :func:`~pyro_vae.latents.attribute_vector`.
        num_images: number of images on the page, the first ones.
        title: heading of the page.
        caption: line below it, such as the protocol of a run.
        overwrite: replace an existing file.

    Returns:
        The path of the file.

    Raises:
        FileExistsError: the file exists and ``overwrite`` is False.
        ValueError: the browser cannot evaluate a piece of the model, which the message names, or the data are not
            images of its ``data_shape``.

    Example:
        >>> import tempfile
        >>> from pyro_vae import VAE, guides, likelihoods, priors
        >>> shape = (1, 8, 8)
        >>> pieces = likelihoods.BernoulliLikelihood(2, shape), guides.DiagonalNormalGuide(shape, 2)
        >>> vae, x = VAE(priors.StandardNormalPrior(2), *pieces), torch.rand(50, *shape).round()
        >>> explore(vae, x, tempfile.mkdtemp() + "/explorer.html").name
        'explorer.html'
    """
    check_arguments(explore, locals())
    check_count("explore", num_images=num_images)
    path = Path(out)
    require(path.suffix == ".html", "explore", "out must end in .html", f"out={str(out)!r}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"explore: {path} must not exist yet. Pass overwrite=True, or another name.")
    shown, source = (_image_set(images, vae) for images in (data, data if train is None else train))
    shown, pack = shown.subset(slice(num_images)), Pack()
    model = describe_model(vae, pack)
    content = {"title": title, "caption": caption, "version": __version__, "model": model}
    content |= _described(vae, shown, source, attributes or {}, pack)
    write_atomically(path, html({**content, "block": pack.base64()}).encode(), overwrite=overwrite)
    return path


def _described(
    vae: Any, shown: ImageSet, source: ImageSet, attributes: Mapping[str, Tensor], pack: Pack
) -> dict[str, Any]:
    labels = None if shown.labels is None else shown.labels.tolist()
    with isolated_rng(0):
        x = shown.batch(slice(None), dtype=torch.float32)
    steps = steps_of(x, None if shown.images.is_floating_point() else shown.max_value)
    shape = (1, *vae.data_shape) if len(vae.data_shape) == 2 else vae.data_shape
    with LatentSpace(vae) as space:
        codes = describe_codes(space, source, pack)
        directions = describe_labels(space, source, shown, attributes, pack, classes=isinstance(vae, VAE))
        shown_codes = pack.vector(space.means(shown))
    images = {"shape": shape, "steps": steps, "count": len(shown), "labels": labels, "pixels": pack.pixels(x, steps)}
    names = list(source.classes)
    return {"images": {**images, "codes": shown_codes}, "codes": codes, "names": names, **directions}


def _image_set(data: ImageSet | Tensor, vae: Any) -> ImageSet:
    """The data as a set, called without labels, on the model's device."""
    require(hasattr(vae, "data_shape"), "explore", "vae must be a VAE or M2", type(vae).__name__)
    shape = tuple(vae.data_shape)
    rule, advice = (
        "data must be images (C, H, W) with C 1 or 3, or (H, W)",
        "Draw others with plotting.latent_scatter",
    )
    require(len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)), "explore", rule, f"data_shape={shape}", advice)
    images = data if isinstance(data, ImageSet) else ImageSet(data)
    check_shape("explore", "an image", images.data_shape, shape, "Pass the data of the model")
    device, _ = placement(vae.model, vae.guide)
    return images.unpaired().to(device or "cpu")


def html(content: Mapping[str, Any]) -> str:
    """The page of a description."""
    style, script = read("style.css"), "\n".join(map(read, SCRIPTS))
    hashes = {f"{name}_hash": _sha256(text) for name, text in (("style", style), ("script", script))}
    data = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    page = Template(read("template.html"))
    return page.substitute(title=escape(content["title"]), style=style, script=script, content=data, **hashes)


def read(name: str) -> str:
    """The text of a file of the page."""
    return files("pyro_vae.explorer").joinpath(name).read_text()


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
