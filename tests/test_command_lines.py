"""Bad command lines, generated from the parsers of the commands: each prints one line that names the option."""

from __future__ import annotations

from tools.attack_command_lines import attack


def test_every_bad_command_line_prints_one_good_line() -> None:
    table, num_trials, failures = attack(every=47, first=8)
    assert num_trials > 100, table
    assert [(" ".join(trial.argv), verdict) for trial, verdict in failures] == []
