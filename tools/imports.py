"""Draw the import graph of the package from its code, and check the import rule.

    python -m tools.imports               writes imports.svg
    python -m tools.imports graph.png     writes graph.png

Prints the arrows between folders, the circles among folders and among files, and the upward arrows. Fails if there is a
circle among folders or an upward arrow.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "pyro_vae"

# The import rule, from the bottom up. A folder imports itself and the lines above its own; folders of one line do not
# import each other. `data` is open to evaluation and above. Nothing imports from the package's own __init__.
RULE = """
_core
networks distributions data
flows
priors likelihoods guides
models
objectives evaluation
latents compression
training plotting explorer
experiments features
cli zoo
"""
FLOORS = {folder: floor for floor, line in enumerate(RULE.strip().splitlines()) for folder in line.split()}
FLOORS |= {"__main__": len(FLOORS), "pyro_vae": len(FLOORS)}


def folder_of(path: Path) -> str:
    """The top folder: ``pyro_vae/guides/base.py`` belongs to ``guides``."""
    first = path.relative_to(PACKAGE).parts[0]
    return "pyro_vae" if first == "__init__.py" else first.removesuffix(".py")


def imported_names(tree: ast.AST) -> Iterator[tuple[int, list[str]]]:
    """(line, parts of the dotted name below ``pyro_vae``) of every import of this package, anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level > 0:
                raise ValueError(f"line {node.lineno}: relative import; write the full name.")
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in dotted:
            root, *rest = name.split(".")
            if root == "pyro_vae":
                yield node.lineno, rest


def imported_folders(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, folder) of every import of this package."""
    for line, names in imported_names(tree):
        yield line, names[0] if names and names[0] in FLOORS else "pyro_vae"


def imported_file(names: list[str]) -> str:
    """The file that holds what is imported: a module if there is one, else the nearest ``__init__``."""
    for end in range(len(names), 0, -1):
        for path in (PACKAGE.joinpath(*names[:end]).with_suffix(".py"), PACKAGE.joinpath(*names[:end], "__init__.py")):
            if path.is_file():
                return str(path.relative_to(PACKAGE))
    return "__init__.py"


def allowed(user: str, used: str) -> bool:
    """Whether files of the folder ``user`` may import from the folder ``used``."""
    open_to = FLOORS["evaluation"] if used == "data" else 0
    return user == used or (FLOORS[used] < FLOORS[user] and FLOORS[user] >= open_to)


def package_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def folder_graph() -> dict[str, dict[str, int]]:
    """The number of imports from each folder to each other folder."""
    graph: dict[str, dict[str, int]] = {}
    for path in package_files():
        arrows = graph.setdefault(folder_of(path), {})
        for _, used in imported_folders(ast.parse(path.read_text())):
            if used != folder_of(path):
                arrows[used] = arrows.get(used, 0) + 1
    return graph


def file_graph() -> dict[str, set[str]]:
    """The files that each file imports by name; the ``__init__`` files that Python runs on the way do not count."""
    return {
        str(path.relative_to(PACKAGE)): {
            imported_file(names) for _, names in imported_names(ast.parse(path.read_text()))
        }
        for path in package_files()
    }


def circles(graph: Mapping[str, Set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one node, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    components = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in order:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], order[other])
        if lowest[node] == order[node]:
            position = stack.index(node)
            components.append(sorted(stack[position:]))
            del stack[position:]

    for node in graph:
        if node not in order:
            visit(node)
    return [component for component in components if len(component) > 1]


def upward(graph: Mapping[str, Mapping[str, int]]) -> list[str]:
    return [f"{user} -> {used}" for user in graph for used in graph[user] if not allowed(user, used)]


def places(graph: Mapping[str, object]) -> dict[str, tuple[float, float]]:
    """Position of each folder: its floor, and its place along it."""
    result = {}
    for floor in range(len(FLOORS)):
        names = [name for name in FLOORS if name in graph and FLOORS[name] == floor]
        shift = 0.25 * (-1) ** floor  # so that arrows from floor to floor do not pass behind a folder
        result |= {name: (4.0 * (i - (len(names) - 1) / 2) + shift, float(floor)) for i, name in enumerate(names)}
    return result


def draw(graph: Mapping[str, Mapping[str, int]], path: Path) -> None:
    """The folders on their floors; an arrow's width grows with the number of imports, and a wrong one is red."""
    import matplotlib.pyplot as plt

    position = places(graph)
    floors = sorted({y for _, y in position.values()})
    position = {name: (x, float(floors.index(y))) for name, (x, y) in position.items()}
    figure, axes = plt.subplots(figsize=(11, 10))
    for user, arrows in graph.items():
        for used, number in arrows.items():
            good = allowed(user, used)
            bend = 0.0 if position[user][1] - position[used][1] == 1 else 0.12
            style = {
                "arrowstyle": "-|>",
                "color": "#7f8fa6" if good else "crimson",
                "alpha": 0.6 if good else 1.0,
                "linewidth": 0.5 + 0.25 * number**0.5,
                "shrinkA": 16,
                "shrinkB": 16,
                "connectionstyle": f"arc3,rad={bend if position[user][0] >= position[used][0] else -bend}",
            }
            axes.annotate("", position[used], position[user], arrowprops=style)
    for name, (x, y) in position.items():
        box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "#2f3640"}
        axes.text(x, y, name, ha="center", va="center", fontsize=11, bbox=box)
    axes.set(xlim=(-6.5, 6.5), ylim=(-0.6, len(floors) - 0.4))
    axes.set_axis_off()
    figure.savefig(path, bbox_inches="tight", dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("picture", nargs="?", type=Path, default=Path("imports.svg"), help="SVG, PNG or PDF file")
    picture = parser.parse_args().picture
    graph = folder_graph()
    draw(graph, picture)
    wrong, folders, files = upward(graph), circles({k: set(v) for k, v in graph.items()}), circles(file_graph())
    print(f"{len(graph)} folders, {len(file_graph())} files")
    print(f"{sum(map(len, graph.values()))} arrows between folders")
    print(f"{len(folders)} circles among folders", *map(" ".join, folders), sep="\n  ")
    print(f"{len(files)} circles among files", *map(" ".join, files), sep="\n  ")
    print(f"{len(wrong)} arrows against the rule", *wrong, sep="\n  ")
    print(f"written to {picture}")
    return int(bool(wrong or folders))


if __name__ == "__main__":
    sys.exit(main())
