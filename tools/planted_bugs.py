"""Plant each bug of planted_bugs.yaml in a copy of the package and check that a test fails.

    python -m tools.planted_bugs                       every bug
    python -m tools.planted_bugs masks owners          the bugs in files whose path contains one of the words
    python -m tools.planted_bugs --out results.json    record the results; recorded bugs are skipped the next time
    python -m tools.planted_bugs --check               list the bugs whose text is not found, with the nearest text
    python -m tools.planted_bugs --repair              replace these texts by the nearest ones, if similar enough

The text of a bug occurs exactly once in its file. If the file has moved or no longer contains the text, the bug is
planted in the one other file of the package that contains it.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(__file__).with_suffix(".yaml")
SIMILAR = 0.8  # ratio of difflib above which --repair accepts the nearest text
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True)
class Bug:
    """A text in a file of the package, its replacement, and the pytest arguments of the tests that must fail.

    A bug that ``loops`` makes the tests run forever; only then does a timeout count as a failure.
    """

    file: str
    text: str
    replacement: str
    tests: str | list[str]
    loops: bool = False


@dataclass(frozen=True)
class Nearest:
    """The text of a file that is most similar to the text of a bug."""

    file: str
    text: str
    ratio: float


def load(path: Path = DATA) -> tuple[dict[str, list[str]], list[Bug]]:
    """The named groups of tests and the bugs."""
    data = yaml.safe_load(path.read_text())
    return data["tests"], [Bug(**bug) for bug in data["bugs"]]


def save(groups: dict[str, list[str]], bugs: Sequence[Bug], path: Path = DATA) -> None:
    header = path.read_text().partition("tests:\n")[0]
    lines = ["tests:", *(f"  {name}: {_flow(tests)}" for name, tests in groups.items()), "bugs:"]
    for bug in bugs:
        fields = [f"{key}: {_flow(value)}" for key, value in asdict(bug).items() if key != "loops" or value]
        lines += [f"  {'- ' if i == 0 else '  '}{field}" for i, field in enumerate(fields)]
    path.write_text(header + "\n".join(lines) + "\n")


def _flow(value: object) -> str:
    """YAML on one line; any text with a special character is quoted."""
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    assert isinstance(value, str)
    if re.fullmatch(r"[a-z_][\w./:]+", value) and yaml.safe_load(value) == value:
        return value
    style = '"' if "\n" in value else "'"
    return yaml.safe_dump(value, default_style=style, width=10_000, allow_unicode=True).strip()


def arguments(bug: Bug, groups: dict[str, list[str]]) -> list[str]:
    """The pytest arguments of the bug's tests."""
    return groups[bug.tests] if isinstance(bug.tests, str) else bug.tests


def package_sources(root: Path = ROOT) -> dict[str, str]:
    """Path within the package and text of every Python file and template."""
    package = root / "pyro_vae"
    paths = sorted(path for suffix in ("py", "jinja") for path in package.rglob(f"*.{suffix}"))
    return {str(path.relative_to(package)): path.read_text() for path in paths}


def locate(bug: Bug, sources: dict[str, str]) -> str | None:
    """The file to plant the bug in: its own, or the only other one that contains the text exactly once."""
    counts = {file: source.count(bug.text) for file, source in sources.items()}
    if counts.get(bug.file, 0) > 0:
        return bug.file if counts[bug.file] == 1 else None
    files = [file for file, count in counts.items() if count]
    return files[0] if len(files) == 1 and counts[files[0]] == 1 else None


def planted(bug: Bug, source: str) -> str:
    """The source with the bug in it.

    Raises:
        SyntaxError: if that is not valid Python.
    """
    changed = source.replace(bug.text, bug.replacement)
    if bug.file.endswith(".py"):
        ast.parse(changed)
    return changed


def problems(bugs: Sequence[Bug], sources: dict[str, str]) -> Iterator[tuple[Bug, str]]:
    """The bugs that cannot be planted in their own file, with the reason."""
    for bug in bugs:
        file = locate(bug, sources)
        if file is None:
            count = sources.get(bug.file, "").count(bug.text)
            yield bug, f"found {count} times" if bug.file in sources else "the file does not exist"
        elif file != bug.file:
            yield bug, f"now in {file}"
        else:
            try:
                planted(bug, sources[file])
            except SyntaxError as error:
                yield bug, f"invalid Python with the bug: {error}"


def nearest(bug: Bug, sources: dict[str, str]) -> Nearest:
    """The most similar text that occurs once: in the bug's file, else in files of that name, else in any file."""
    same_name = [file for file in sources if Path(file).name == Path(bug.file).name]
    files = [bug.file] if bug.file in sources else same_name or list(sources)
    candidates = (Nearest(file, text, ratio) for file in files for text, ratio in _similar(bug.text, sources[file]))
    return max(candidates, key=lambda near: near.ratio, default=Nearest(bug.file, "", 0.0))


def _similar(text: str, source: str) -> Iterator[tuple[str, float]]:
    """Parts of the five most similar lines (groups of lines, if the text has several) with their ratios."""
    lines = source.splitlines(keepends=True)
    height = len(text.splitlines())
    matcher = SequenceMatcher(None, b=text, autojunk=False)

    def covered(group: str) -> int:
        matcher.set_seq1(group)
        return sum(block.size for block in matcher.get_matching_blocks())

    groups = ["".join(lines[i : i + height]) for i in range(len(lines) - height + 1)]
    width = len(_TOKEN.findall(text))
    for group in sorted(groups, key=covered, reverse=True)[:5]:
        tokens = _TOKEN.findall(group)
        for start in range(len(tokens)):
            for end in range(start + max(1, width - 6), min(len(tokens), start + width + 6) + 1):
                part = "".join(tokens[start:end])
                matcher.set_seq1(part)
                if source.count(part) == 1:
                    yield part, matcher.ratio()


def repaired(bug: Bug, near: Nearest) -> Bug:
    """The bug with the nearest text; what changed in the text changes in the replacement as well."""
    before, after = _TOKEN.findall(bug.text), _TOKEN.findall(near.text)
    replacement = bug.replacement
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "replace":
            pattern = rf"(?<!\w){re.escape(''.join(before[a:b]))}(?!\w)"
            new = "".join(after[c:d])
            replacement = re.sub(pattern, lambda _, new=new: new, replacement)
    return replace(bug, file=near.file, text=near.text, replacement=replacement)


def check(bugs: Sequence[Bug], sources: dict[str, str], *, repair: bool) -> tuple[list[Bug], int]:
    """Print the bugs that cannot be planted, with the nearest texts; the bugs after repair and the number still bad."""
    result, bad = list(bugs), 0
    for bug, reason in problems(bugs, sources):
        file = locate(bug, sources)
        near = Nearest(file, bug.text, 1.0) if file is not None else nearest(bug, sources)
        new = repaired(bug, near)
        print(f"{bug.file}: {reason}\n  text         {bug.text!r}")
        print(f"  nearest      {near.text!r}  in {near.file}, ratio {near.ratio:.2f}")
        print(f"  replacement  {bug.replacement!r}\n  would become {new.replacement!r}")
        if repair and near.ratio > SIMILAR and new != bug and new.text != new.replacement:
            result[bugs.index(bug)] = new
            print("  repaired")
        else:
            bad += 1
    return result, bad


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only bugs in files whose path contains one of these")
    parser.add_argument("--check", action="store_true", help="list the bugs whose text is not found")
    parser.add_argument("--repair", action="store_true", help="replace the texts that are not found")
    parser.add_argument("--out", type=Path, help="JSON file of results; the bugs recorded in it are skipped")
    parser.add_argument("--again", action="store_true", help="run recorded bugs again, the test that failed first")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds of a processor for the tests of one bug")
    options = parser.parse_args()
    groups, bugs = load()
    if options.check or options.repair:
        bugs, bad = check(bugs, package_sources(), repair=options.repair)
        if options.repair:
            save(groups, bugs)
        print(f"{bad} of {len(bugs)} bugs cannot be planted in their file")
        return int(bad > 0)
    from tools.planted_bugs_run import run  # imports torch, pyro and pytest

    chosen = [bug for bug in bugs if not options.words or any(word in bug.file for word in options.words)]
    return run(
        chosen,
        groups,
        out=options.out,
        again=options.again,
        jobs=options.jobs,
        timeout=options.timeout,
    )


if __name__ == "__main__":
    sys.exit(main())
