"""What a person sees: counted nouns, and the status at any width, on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub.release.card import counted
from tests.support.tgi import Server, running, write_steps

ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "FORCE_COLOR")}
Figures = dict[tuple[str, str, str], dict[str, str]]


def on_terminal(columns: int, *command: str | Path) -> list[str]:
    """The lines that a command writes on a terminal of that width."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    import fcntl

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**ENVIRONMENT, "TERM": "xterm", "NO_COLOR": "1"},
    )
    os.close(follower)
    written = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        written += piece
    os.close(leader)
    assert child.wait(60) == 0, written
    text = re.sub(r"\x1b\[[0-9;]*m", "", written.decode())
    return text.replace("\r\n", "\n").splitlines()


def in_pipe(*command: str | Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, encoding="utf-8", env=ENVIRONMENT, check=True
    )
    assert "\x1b" not in done.stdout
    return done.stdout.splitlines()


KEYS = {
    "round": ("round", "step"),
    "dropped because": ("dropped because",),
    "instances dropped from accepted tasks": ("instances dropped from accepted tasks",),
}


def figures(lines: list[str]) -> Figures:
    """The tables in `lines` as a reader takes them in: what stands under a heading, by table and row."""
    found: Figures = {}
    heading: list[str] = []
    for line in lines:
        cells = re.split(r"\s{2,}", line.strip())
        if cells[0] in KEYS:
            heading = cells
        elif heading and len(cells) == len(heading):
            row = dict(zip(heading, cells, strict=True))
            key, step = ([row.pop(name, "") for name in KEYS[heading[0]]] + [""])[:2]
            found.setdefault((heading[0], key, step), {}).update(row)
        else:
            heading = []
    return found


def expected(status: dict[str, Any]) -> Figures:
    """The same out of `status --json`."""
    found: Figures = {}
    several = len(status["rounds"]) > 1
    for round_ in status["rounds"]:
        number, mean = str(round_["round"]), round_["similarity"]["mean"]
        found["round", number, ""] = {
            "version": round_["version"],
            "tasks": f"{round_['tasks']:,}",
            "rows": f"{round_['rows']:,}",
            "candidates": f"{round_['candidates']:,}",
            "accepted": "-" if round_["acceptance"] is None else f"{100 * round_['acceptance']:.1f}%",
            "similar": "-" if mean is None else f"{mean:.2f}/{round_['similarity']['p90']:.2f}",
            "state": "complete" if round_["complete"] else f"open, {round_['wanted']:,} wanted",
            "recipe": round_["recipe"],
            "requests": f"{round_['completions']:,}",
            "parsed": f"{round_['parsed']:,}",
            "tokens in": f"{round_['tokens']['prompt']:,}",
            "tokens out": f"{round_['tokens']['generated']:,}",
            "unused": f"{round_['unjudged']:,}",
        }
        for step, stage in round_["stages"].items() if len(round_["stages"]) > 1 else ():
            found["round", number, step] = {
                "requests": f"{stage['requests']:,}",
                "parsed": f"{stage['parsed']:,}",
                "candidates": f"{stage['candidates']:,}",
                "tokens in": f"{stage['tokens']['prompt']:,}",
                "tokens out": f"{stage['tokens']['generated']:,}",
            }
    for title, name in (("dropped because", "drops"), ("instances dropped from accepted tasks", "lost_instances")):
        for reason in {reason for round_ in status["rounds"] for reason in round_[name]}:
            counts = {str(round_["round"]): round_[name].get(reason, 0) for round_ in status["rounds"]}
            row = {"number": f"{sum(counts.values()):,}"}
            if several:
                row |= {f"round {number}": f"{count:,}" for number, count in counts.items()}
            found[title, reason, ""] = row
    return found


def check(lines: list[str], status: dict[str, Any]) -> None:
    assert figures(lines) == expected(status)
    text = " ".join(" ".join(lines).split())
    assert "…" not in text
    for round_ in status["rounds"]:
        for step, stage in round_["stages"].items() if len(round_["stages"]) > 1 else ():
            if stage["drops"]:
                reasons = ", ".join(f"{reason} {count:,}" for reason, count in stage["drops"].items())
                assert f"dropped in round {round_['round']}, {step}: {reasons}" in text
    assert f"releases: {', '.join(status['versions'])}" in text


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds, and a third that a budget stopped."""
    space = tmp_path_factory.mktemp("show") / "w"
    tool = [sys.executable, "-m", "selfinstruct_hub"]
    subprocess.run([*tool, "init", space, "--recipe", "self-instruct"], check=True, capture_output=True)
    with running(Server(answer=write_steps)) as server:
        grow = [*tool, "grow", str(space), "--endpoint", server.url, "--concurrency", "4"]
        subprocess.run([*grow, "--rounds", "2", "--tasks", "12"], check=True, capture_output=True)
        subprocess.run([*grow, "--tasks", "500", "--max-requests", "40"], check=False, capture_output=True)
    return space


def test_every_figure_of_the_status_stands_on_80_columns(grown: Path) -> None:
    status = json.loads("\n".join(in_pipe("-m", "selfinstruct_hub", "status", grown, "--json")))
    assert [round_["complete"] for round_ in status["rounds"]] == [True, True, False]
    assert all(status["rounds"][0][name] for name in ("drops", "lost_instances", "stages"))
    lines = on_terminal(80, "-m", "selfinstruct_hub", "status", grown)
    assert max(map(len, lines)) <= 80
    check(lines, status)
    summary = f"{status['seeds']} seed tasks, {status['tasks']} tasks accepted in {status['rows']} rows"
    assert summary in " ".join(lines)


def test_a_pipe_gets_one_wide_table(grown: Path) -> None:
    status = json.loads("\n".join(in_pipe("-m", "selfinstruct_hub", "status", grown, "--json")))
    lines = in_pipe("-m", "selfinstruct_hub", "status", grown)
    check(lines, status)
    assert sum(line.startswith("round ") for line in lines) == 2  # the rounds, and their steps


LARGE = """
import json, sys
from selfinstruct_hub.show import print_status
print_status(json.loads(sys.argv[1]))
"""


@pytest.mark.parametrize("columns", [24, 80, 200])
def test_large_numbers_and_long_reasons_are_never_cut(columns: int) -> None:
    big = 123_456_789
    stage = {
        "requests": big,
        "parsed": big - 1,
        "tokens": {"prompt": big * 1000, "generated": big * 10},
        "candidates": big - 2,
        "drops": {f"reason_{i}": big + i for i in range(12)},
    }
    rounds = [
        {
            **stage,
            "round": number,
            "version": f"v1.{number}.0",
            "recipe": "self-instruct",
            "tasks": big,
            "rows": big + 7,
            "completions": big,
            "acceptance": 0.7312,
            "similarity": {"mean": 0.61239, "p90": 0.7001},
            "lost_instances": {"cut_off": big},
            "stages": {"instructions": stage, "instances": stage},
            "unjudged": 7,
            "wanted": big * 2,
            "complete": number < 12,
        }
        for number in range(1, 13)
    ]
    counts = {"seeds": 1, "tasks": 12 * big, "rows": 12 * big}
    status = {"recipe": "self-instruct", "language": "en", **counts, "versions": ["v1.0.0"], "rounds": rounds}
    lines = on_terminal(columns, "-c", LARGE, json.dumps(status))
    assert max(map(len, lines)) <= columns
    if columns > 24:
        check(lines, status)
    else:  # so narrow that texts are folded: cut they are not
        assert "…" not in "".join(lines)
        assert f"{big * 1000:,}" in "".join(lines).replace(" ", "")
    assert " 1 seed task," in f" {' '.join(' '.join(lines).split())}"


def test_an_import_is_counted_in_words(tmp_path: Path) -> None:
    """Singular and plural, and a path with what looks like markup."""
    space = tmp_path / "[red]:x:"
    subprocess.run([sys.executable, "-m", "selfinstruct_hub", "init", space], check=True, capture_output=True)
    row = {"instruction": "Name three colours of the rainbow.", "input": "", "output": "Red, green and blue."}
    (tmp_path / "one.jsonl").write_text(json.dumps(row) + "\n{}\n")
    lines = in_pipe("-m", "selfinstruct_hub", "import", space, tmp_path / "one.jsonl", "--skip-bad")
    assert lines == [
        "all_generated_instances: 1 row with 1 instruction, 1 bad row left out; 1 task accepted with 1 instance",
        f"round 1: released as {space / 'releases' / 'v1.0.0'}",
    ]
    status = in_pipe("-m", "selfinstruct_hub", "status", space)
    assert status[0] == "recipe alpaca, language en, 175 seed tasks, 1 task accepted in 1 row"


def test_counted() -> None:
    assert [counted(n, "row") for n in (0, 1, 2, 2000)] == ["0 rows", "1 row", "2 rows", "2,000 rows"]
    assert [counted(n, "row does", "rows do") for n in (1, 2)] == ["1 row does", "2 rows do"]
