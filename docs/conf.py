"""Configuration of Sphinx: the pages of this folder, and a reference made from the docstrings, one page per folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from myst_nb import sphinx_ as myst_nb

import pyro_vae

sys.path.insert(0, str(Path(__file__).parent))
import executed_pages

project, author = "pyro_vae", "The pyro_vae developers"
copyright = "2026, The pyro_vae developers"
version = release = pyro_vae.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx-mathjax-offline"]
html_theme, html_title = "furo", f"pyro_vae {release}"
html_static_path, html_css_files = ["_static"], ["site.css"]
html_extra_path = ["explorers"]  # each page is one file
exclude_patterns = ["_build", "explorers"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # by myst_nb: executed_pages does it
nb_merge_streams = True
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_custom_sections = ["Shape"]
napoleon_use_ivar = True

FOLDERS = {
    "guides": "Guides",
    "priors": "Priors",
    "likelihoods": "Likelihoods",
    "models": "Models",
    "networks": "Networks",
    "objectives": "Objectives",
    "training": "Training",
    "evaluation": "Evaluation",
    "latents": "Latent space",
    "compression": "Compression",
    "data": "Data",
    "flows": "Flows",
    "distributions": "Distributions",
    "features": "scikit-learn",
    "plotting": "Figures",
}
"""Title of the page of each folder of the package, in the order of the table of contents."""

_REQUESTS = "set_fit_request, set_predict_request, set_score_request, set_transform_request"  # added by scikit-learn


def write_reference(folder: Path) -> None:
    """Write one page per folder, and a table of contents."""
    folder.mkdir(exist_ok=True)
    for name, title in FOLDERS.items():
        module = importlib.import_module(f"pyro_vae.{name}")
        blocks = [f"# {title}", f"`pyro_vae.{name}`: {(module.__doc__ or '').strip()}"]
        for item in module.__all__:
            kind = "autoclass" if isinstance(getattr(module, item), type) else "autofunction"
            if callable(getattr(module, item)):
                options = f"\n   :members:\n   :exclude-members: {_REQUESTS}" if kind == "autoclass" else ""
                blocks.append(f"```{{eval-rst}}\n.. {kind}:: pyro_vae.{name}.{item}{options}\n```")
        _write(folder / f"{name}.md", "\n\n".join(blocks) + "\n")
    entries = "\n".join(FOLDERS)
    _write(folder / "index.md", f"# Reference\n\n```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n")


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:  # else every page is built anew
        path.write_text(text)


write_reference(Path(__file__).parent / "reference")


myst_nb.create_nb_reader = executed_pages.executed(myst_nb.create_nb_reader)
