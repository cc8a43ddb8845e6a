"""Pages that need nothing but themselves: no scripts, no fonts, no files beside them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
nav ul { padding: 0; } nav li { display: inline-block; margin-right: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: .9rem; padding-bottom: .3rem; }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; } td { overflow-wrap: anywhere; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; max-width: 27rem; } figcaption { font-size: .9rem; }
img { width: 100%; background: #fff; border-radius: 4px; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; }
.note { border-left: 4px solid #d55e00; padding-left: .8rem; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # even a browser is told to fetch nothing


def page(title: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """A whole page.

    Args:
        title: plain text.
        sections: name of the anchor, heading in plain text, and HTML of each.
    """
    contents = "".join(f'<li><a href="#{name}">{escape(heading)}</a></li>' for name, heading, _ in sections)
    body = "\n".join(
        f'<section id="{name}">\n<h2>{escape(heading)}</h2>\n{content}\n</section>'
        for name, heading, content in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<nav aria-label="Contents"><ul>{contents}</ul></nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def paragraph(text: str, *, note: bool = False) -> str:
    """A paragraph of plain text; a note is a warning."""
    return f'<p class="note">{escape(text)}</p>' if note else f"<p>{escape(text)}</p>"


def commands(lines: Sequence[str]) -> str:
    """Lines to be typed."""
    return f"<pre><code>{escape(chr(10).join(lines))}</code></pre>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> str:
    """A table whose first column names the rows.

    Example:
        >>> "<td>&lt;b&gt;</td>" in table(["run", "x"], [["a", "<b>"]])
        True
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    lines = "\n".join(
        "<tr>" + f'<th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(c)}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{title}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>'


def folded(summary: str, content: str) -> str:
    """HTML that is shown when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"


def picture(png: bytes, alt: str, caption: str) -> str:
    """An image inside the page.

    Args:
        png: the file's content.
        alt: what is to be seen, for those who do not see it.
        caption: below it.
    """
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def pictures(those: Sequence[str]) -> str:
    """Pictures side by side, as many as there is room for."""
    return f'<div class="pictures">\n{chr(10).join(those)}\n</div>' if those else ""
