"""Every bug can be planted, and the tests that must detect it exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.planted_bugs import DATA, Bug, arguments, load, locate, nearest, package_sources, problems, repaired, save

ROOT = Path(__file__).resolve().parents[1]
GROUPS, BUGS = load()
SOURCES = {"a.py": "def f(x):\n    y = x + 1\n    return y * scale\n", "b.py": "def g(x):\n    return x - 1\n"}


def test_every_bug_can_be_planted() -> None:
    assert [f"{bug.file}: {bug.text!r} {reason}" for bug, reason in problems(BUGS, package_sources())] == []


def test_no_bug_is_listed_twice() -> None:
    assert len({(bug.file, bug.text, bug.replacement, str(bug.tests)) for bug in BUGS}) == len(BUGS)


def test_the_tests_of_every_bug_exist() -> None:
    for tests in {tuple(arguments(bug, GROUPS)) for bug in BUGS}:
        for name in (test for test in tests if test.startswith("tests/")):
            file, _, function = name.partition("::")
            assert f"def {function.partition('[')[0]}" in (ROOT / file).read_text()


def test_saved_bugs_are_those_that_were_loaded(tmp_path: Path) -> None:
    copy = tmp_path / "bugs.yaml"
    copy.write_text(DATA.read_text())
    save(GROUPS, BUGS, copy)
    assert copy.read_text() == DATA.read_text()


@pytest.mark.parametrize(
    ("file", "text", "planted_in"),
    [
        ("a.py", "x + 1", "a.py"),
        ("b.py", "x + 1", "a.py"),
        ("gone.py", "x - 1", "b.py"),
        ("a.py", "x", None),
        ("gone.py", "return", None),
        ("a.py", "not there", None),
    ],
)
def test_a_bug_is_planted_in_the_file_of_its_text(file: str, text: str, planted_in: str | None) -> None:
    assert locate(Bug(file, text, "pass", []), SOURCES) == planted_in


def test_a_renamed_variable_is_repaired_in_text_and_replacement() -> None:
    bug = Bug("a.py", "return value * scale", "return value / scale", [])
    near = nearest(bug, SOURCES)
    assert (near.file, near.text) == ("a.py", "return y * scale")
    assert near.ratio > 0.8
    assert repaired(bug, near) == Bug("a.py", "return y * scale", "return y / scale", [])
