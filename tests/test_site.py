"""The site that ``make docs`` builds: complete, without warnings, broken links and requests, its cells executed."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


class Page(HTMLParser):
    """The anchors of a page, and the addresses that it links to or loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values["id"]} if "id" in values else set()
        self.links += [values["href"]] if "href" in values else []
        if tag in ("script", "img", "link", "iframe"):
            self.loaded += [values[name] for name in ("src", "href") if name in values]


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text()
    listed = {line for block in re.findall(r"```\{toctree\}(.*?)```", index, re.DOTALL) for line in block.split()}
    paths = [*DOCS.glob("*.md"), *DOCS.glob("tutorials/*.md")]
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in paths} - {"index"}
    assert pages <= listed


EXECUTED = sorted(path for path in DOCS.rglob("*.md") if "```{code-cell}" in path.read_text())


def test_every_tutorial_is_executed_and_can_be_downloaded() -> None:
    assert {*DOCS.glob("tutorials/*.md")} <= set(EXECUTED)
    for path in EXECUTED:
        text = path.read_text()
        assert text.startswith("---\nfile_format: mystnb\n")
        assert f"{{nb-download}}`This page as a notebook <{path.stem}.ipynb>`" in text
        assert "```python" not in text  # a block that nobody runs


def run_cells(monkeypatch: pytest.MonkeyPatch, *cells: str) -> list[dict]:
    monkeypatch.syspath_prepend(str(DOCS))
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    return importlib.import_module("executed_pages").execute(notebook).cells


def test_cells_have_their_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = run_cells(monkeypatch, "print(1 + 1)\nx = 5", "x * 2")
    assert [output.text for output in first.outputs] == ["2\n"]
    assert [output.data["text/plain"] for output in second.outputs] == ["10"]
    assert (first.execution_count, second.execution_count) == (1, 2)


@pytest.mark.parametrize("cell", ["assert 1 > 2", "x = (", "import warnings; warnings.warn('careful')"])
def test_a_cell_that_fails_or_warns_fails_the_build(monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
    with pytest.raises(RuntimeError, match="this cell failed"):
        run_cells(monkeypatch, "x = 1", cell)


def test_the_reference_has_every_public_folder() -> None:
    text = (DOCS / "conf.py").read_text()
    private = {"_core", "cli", "experiments", "explorer", "zoo", "__pycache__"}
    folders = {path.name for path in (ROOT / "pyro_vae").iterdir() if path.is_dir()} - private
    assert folders == set(re.findall(r'^    "(\w+)": "', text, re.MULTILINE))


@pytest.mark.slow
def test_it_is_built_without_warnings_broken_links_and_requests(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "trees")]
    done = subprocess.run([*command, str(DOCS), str(tmp_path / "html")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path.resolve(): Page(path) for path in (tmp_path / "html").rglob("*.html")}
    assert len(pages) > 55
    notebooks = [json.loads(path.read_text()) for path in (tmp_path / "html/_downloads").rglob("*.ipynb")]
    assert len(notebooks) == len(EXECUTED)
    for notebook in notebooks:
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        assert any(cell["outputs"] for cell in cells)
    broken = {(path.name, link) for path, page in pages.items() for link in page.links if not _leads(path, link, pages)}
    assert not broken
    assert not {link for page in pages.values() for link in page.loaded if re.match(r"https?:|//", link)}


def _leads(path: Path, link: str, pages: dict[Path, Page]) -> bool:
    if re.match(r"\w+:", link):
        return True
    file, _, anchor = link.partition("#")
    target = (path.parent / file.split("?")[0]).resolve() if file else path
    return target.exists() and (not anchor or target not in pages or anchor in pages[target].anchors)
