"""HTML of objects, by which notebooks display them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def folded(title: str, lines: Sequence[str], **sections: Mapping[str, Any] | str) -> str:
    """HTML of an object: its title, lines of text, and folded sections.

    Args:
        title: the headline.
        lines: text, whose columns are kept.
        sections: entries or text by name; an empty section is left out.

    Example:
        >>> folded("A", ["b < c"], protocol={"seed": 0})
        '<b>A</b><pre>b &lt; c</pre><details><summary>protocol</summary>\
<table><tr><td>seed</td><td>0</td></tr></table></details>'
    """
    text = f"<pre>{escape(chr(10).join(lines))}</pre>" if lines else ""
    return f"<b>{escape(title)}</b>{text}" + "".join(_section(name, rows) for name, rows in sections.items() if rows)


def _section(name: str, content: Mapping[str, Any] | str) -> str:
    return f"<details><summary>{escape(name)}</summary>{_body(content)}</details>"


def _body(content: Mapping[str, Any] | str) -> str:
    if isinstance(content, str):
        return f"<pre>{escape(content)}</pre>"
    rows = (f"<tr><td>{escape(str(key))}</td><td>{escape(str(value))}</td></tr>" for key, value in content.items())
    return f"<table>{''.join(rows)}</table>"


class DisplayedModule:
    """Mixin that shows a model in a notebook: a line per part, and its structure folded."""

    def _repr_html_(self: Any) -> str:
        named = [(name, part) for name, part in self.named_children() if _num_parameters(part)]
        parts = [(f"{name}.{child}", p) for name, part in named for child, p in part.named_children()]
        rows = [(name, part) for name, part in [*named, *parts] if _num_parameters(part)]
        width = max((len(name) for name, _ in rows), default=0)
        lines = [f"{name:<{width}}  {type(part).__name__}, {_num_parameters(part):,} parameters" for name, part in rows]
        return folded(f"{type(self).__name__}, {_num_parameters(self):,} parameters", lines, structure=str(self))


def _num_parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
