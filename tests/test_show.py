"""What a person sees: the status at any width, a run while it goes on, and counted nouns."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfinstruct_hub import config, events
from selfinstruct_hub.endpoint.budget import Budget, Spent
from selfinstruct_hub.figures import counted
from selfinstruct_hub.grow import Progress, RoundOutcome
from selfinstruct_hub.records import FAILURES, Round
from selfinstruct_hub.run import Finished
from selfinstruct_hub.show import RunView, pieces, view_of, views
from selfinstruct_hub.show.live import picture
from selfinstruct_hub.show.log import JsonView, LineView, StepView
from tests.support import tool
from tests.support.tgi import Server, running, write_steps

ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "FORCE_COLOR")}
Figures = dict[tuple[str, str, str], dict[str, str]]


def on_terminal(
    columns: int, *command: str | Path, see: Callable[[bytes], object] = lambda written: None
) -> list[str]:
    """The lines that a command writes on a terminal of that width. `see` is handed what it has written so far."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    import fcntl

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    files, environment = (follower, follower, follower), {**ENVIRONMENT, "TERM": "xterm", "NO_COLOR": "1"}
    child = tool.start(command, files, environment)
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
        see(written)
    os.close(leader)
    assert child.wait(60) == 0, written
    text = re.sub(r"\x1b\[[0-9;]*m", "", written.decode())
    return text.replace("\r\n", "\n").splitlines()


def in_pipe(*command: str | Path) -> list[str]:
    done = tool.run(*command, environment=ENVIRONMENT)
    done.check_returncode()
    assert "\x1b" not in done.stdout
    return done.stdout.splitlines()


KEYS = {
    "round": ("round", "step"),
    "dropped because": ("dropped because",),
    "instances dropped from accepted tasks": ("instances dropped from accepted tasks",),
    "requests given up because": ("requests given up because",),
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
            "requests": f"{round_['requests']:,}",
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
    for title, name in (
        ("dropped because", "drops"),
        ("instances dropped from accepted tasks", "lost_instances"),
        ("requests given up because", "failed"),
    ):
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
    tool.run("init", space, "--recipe", "self-instruct").check_returncode()
    with running(Server(answer=write_steps)) as server:
        grow = ("grow", space, "--endpoint", server.url, "--concurrency", "4")
        tool.run(*grow, "--rounds", "2", "--tasks", "12").check_returncode()
        tool.run(*grow, "--tasks", "500", "--max-requests", "40")
    return space


def test_every_figure_of_the_status_stands_on_80_columns(grown: Path) -> None:
    status = json.loads("\n".join(in_pipe("status", grown, "--json")))
    assert [round_["complete"] for round_ in status["rounds"]] == [True, True, False]
    assert all(status["rounds"][0][name] for name in ("drops", "lost_instances", "stages"))
    lines = on_terminal(80, "status", grown)
    assert max(map(len, lines)) <= 80
    check(lines, status)
    summary = f"{status['seeds']} seed tasks, {status['tasks']} tasks accepted in {status['rows']} rows"
    assert summary in " ".join(lines)


def test_a_pipe_gets_one_wide_table(grown: Path) -> None:
    status = json.loads("\n".join(in_pipe("status", grown, "--json")))
    lines = in_pipe("status", grown)
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
            "failed": {"timeout": big, "bad_answer": 1},
            "stages": {"instructions": stage, "instances": stage},
            "unjudged": 7,
            "wanted": big * 2,
            "complete": number < 12,
        }
        for number in range(1, 13)
    ]
    counts = {"seeds": 1, "tasks": 12 * big, "rows": 12 * big}
    status = {"recipe": "self-instruct", "language": "en", **counts, "versions": ["v1.0.0"], "rounds": rounds}
    status |= {"revisions": [], "unfinished": None, "problems": []}
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
    tool.run("init", space).check_returncode()
    row = {"instruction": "Name three colours of the rainbow.", "input": "", "output": "Red, green and blue."}
    (tmp_path / "one.jsonl").write_text(json.dumps(row) + "\n{}\n")
    lines = in_pipe("import", space, tmp_path / "one.jsonl", "--skip-bad")
    assert lines == [
        "all_generated_instances: 1 row with 1 instruction, 1 bad row left out; 1 task accepted with 1 instance",
        f"round 1: released as {space / 'releases' / 'v1.0.0'}",
    ]
    status = in_pipe("status", space)
    assert status[0] == "recipe alpaca, language en, 175 seed tasks, 1 task accepted in 1 row"


# A run while it goes on.


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def progress(**values: Any) -> Progress:
    return Progress(**{"round": 1, "version": "v1.0.0", "wanted": 500, "capacity": 16, **values})


def answered(number: int, tokens: int = 400, call: int = 0) -> events.Answered:
    return events.Answered(1, number, call, "tasks", 800, tokens, "eos", 2.5, 0.0)


def going(view: RunView, clock: Clock, draws: int = 20, **values: Any) -> Progress:
    """Lets `view` see a run that takes a second a draw and accepts 5 tasks of 8 candidates each time."""
    shown = progress(**values)
    view.observe(shown)
    for number in range(draws):
        clock.now += 1
        view.report(answered(number))
        view.report(events.Judged(1, number, 8, 5, {"too_similar": 2, "too_short": 1}))
        shown.requests += 1
        shown.accepted += 5
        shown.candidates += 8
        shown.drops.update({"too_similar": 2, "too_short": 1})
        view.observe(shown)
    return shown


def rendered(figures: views.Figures, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)
    console.print(picture(figures, width))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


PRICES = config.Prices(prompt=1.0, generated=2.0)


@pytest.mark.parametrize("width", [80, 40, 24])
def test_the_picture_of_a_run_is_never_cut(width: int) -> None:
    clock = Clock()
    view = RunView(PRICES, clock)
    budget = Budget(max_requests=60, prices=PRICES, spent=Spent(20, 1_000_000_000, 40_000_000, 400_000.0))
    shown = going(view, clock, wanted=123_456_789, later=987_654_321, in_flight=128, budget=budget)
    shown.capacity = 128
    shown.requests = 7_654_321
    shown.candidates = 11_222_333
    shown.drops = Counter({f"a_reason_with_a_long_name_{n}": 1_000_000 + n for n in range(9)})
    shown.retries = Counter(dict.fromkeys(FAILURES, 12345))
    shown.failed = Counter({"timeout": 1234, "bad_answer": 77})
    view.observe(shown)
    figures = view.figures()
    assert figures is not None
    lines = rendered(figures, width)
    assert max(map(len, lines)) <= width
    text = "".join("".join(lines).split())
    assert "…" not in text
    for part in (
        *("round 1", "100 of 123,456,789 tasks", "128 of 128 in flight", "1.0 requests/s", "400 tokens/s"),
        *("7,654,321 answers", "dropped 9,000,036 of 11,222,333 candidates", "6 others 6,000,015"),
        *("a_reason_with_a_long_name_8 1,000,008", "tried again 61,725 ("),
        *("given up 1,311 (timeout 1,234, bad_answer 77)", "987,654,321 tasks in later rounds"),
        *("111:06:40 and 1,080.00 USD so far", "--max-requests ends it before, at about 300 tasks"),
        "about 2,600 days left",
    ):
        assert part.replace(" ", "") in text, part
    if width == 80:
        assert len(lines) <= 9


def test_the_picture_of_a_run_has_few_lines() -> None:
    clock = Clock()
    view = RunView(None, clock)
    assert view.figures() is None
    view.observe(progress(in_flight=3))
    figures = view.figures()
    assert figures is not None
    assert rendered(figures, 80)[1:] == ["3 of 16 in flight, 0 answers", "0:00:00 so far"]
    going(view, clock, in_flight=16)
    clock.now += 5  # nothing came
    figures = view.figures()
    assert figures is not None
    first, *rest = rendered(figures, 80)
    assert re.fullmatch(r"round 1  ━+╸? +100 of 500 tasks  about 1.7 min left", first)
    assert rest == [
        "16 of 16 in flight, 48 requests/min, 320 tokens/s, 20 answers",
        "dropped 60 of 160 candidates: too_similar 40, too_short 20",
        "0:00:25 so far",
    ]


def test_the_forecast_is_told_once_and_again_when_it_has_changed(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    view = LineView(PRICES)
    view._clock = clock
    shown = going(view, clock)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("forecast: ")]
    assert told == [
        "forecast: about 97 more requests, 1.6 min, 120,000 tokens, 0.16 USD until 500 tasks are accepted"
    ]
    for number in range(20, 100):  # as before, and then nothing is accepted any more
        clock.now += 1
        view.report(answered(number))
        view.report(events.Judged(1, number, 8, 0))
        view.observe(shown)
    again = [line for line in capsys.readouterr().err.splitlines() if line.startswith("forecast: ")]
    assert 1 <= len(again) <= 3
    requests = [int(re.findall(r"about (\d+) more", line)[0]) for line in again]
    assert requests == sorted(requests)
    assert requests[-1] > 200


def test_retries_are_told_when_they_begin_and_then_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    view = LineView()
    view._clock = clock
    for tenth in range(250):
        clock.now = 1000 + tenth / 10
        view.report(events.Retried("http://gpu:8080", "overloaded", "HTTP 429: Model is overloaded", 1, 0.5))
        if tenth == 5:
            view.report(events.Retried("http://gpu:8080", "timeout", "no answer within 120 s", 1, 0.5))
            view.report(events.GivenUp(1, 7, 2, "instances", "bad_answer", "", 6))
    said = "http://gpu:8080: overloaded (HTTP 429: Model is overloaded), trying again"
    assert capsys.readouterr().err.splitlines() == [
        said,
        "http://gpu:8080: timeout (no answer within 120 s), trying again",
        "draw 7, step instances: given up after 6 tries, bad answer",
        f"{said} (99 more like this since the last time)",
        f"{said} (99 more like this since the last time)",
    ]


def test_a_log_has_a_line_from_time_to_time_whether_anything_comes_or_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LineView, "seconds_between_ticks", 0.05)
    clock = Clock()
    view = LineView(PRICES)
    view._clock = clock
    budget = Budget(prices=PRICES, spent=Spent(20, 16_000, 8_000))
    with view:
        going(view, clock, in_flight=16, budget=budget, retries=Counter(timeout=2), later=500)
        written = ""
        deadline = time.monotonic() + 60
        while written.count("round 1: 100 ") < 3 and time.monotonic() < deadline:  # nothing comes
            time.sleep(0.01)
            written += capsys.readouterr().err
    written += capsys.readouterr().err
    lines = [line for line in written.splitlines() if line.startswith("round 1: 100 ")]
    assert len(lines) > 2
    assert "\x1b" not in written
    assert lines[-1] == (
        "round 1: 100 of 500 tasks; 16 of 16 in flight; 1.0 requests/s, 400 tokens/s; 20 answers; "
        "dropped 60 of 160 candidates: too_similar 40, too_short 20; tried again 2 (timeout 2); 0.032 USD; "
        "about 3 min left for 900 tasks of all rounds"
    )


def test_later_rounds_are_counted_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The forecast's end is the same in every round."""
    clock = Clock()
    view = RunView(None, clock)
    shown = going(view, clock, wanted=100, later=200)
    figures = view.figures()
    assert figures is not None
    assert (figures.whole, figures.forecast and figures.forecast.tasks) == (300, 200)
    view.finished(Finished(RoundOutcome(Round(1, "v1.0.0", 100, True, {}), 100), Path("releases/v1.0.0")))
    view.observe(progress(round=2, wanted=100, later=100, accepted=10))
    assert shown.accepted == 100
    figures = view.figures()
    assert figures is not None
    assert (figures.whole, figures.forecast and figures.forecast.tasks) == (300, 190)


def test_what_was_observed_stays_as_it_was() -> None:
    """The run goes on changing what it has handed over; another thread reads it."""
    view = RunView()
    shown = progress(drops=Counter(a=1))
    view.observe(shown)
    shown.drops["b"] += 1
    shown.accepted = 7
    figures = view.figures()
    assert figures is not None
    assert figures.progress.drops == {"a": 1}
    assert figures.progress.accepted == 0


def test_json_is_plain_data() -> None:
    clock = Clock()
    written: list[dict[str, Any]] = []
    view = JsonView(lambda values: written.append(json.loads(json.dumps(values))), PRICES)
    view._clock = clock
    with view:
        view.report(events.Connected("http://gpu:8080", "tgi", "org/model", "3.3.6", True))
        going(view, clock, draws=5, in_flight=2, budget=Budget(prices=PRICES))
        view.report(events.Paced("http://gpu:8080", 8, "overloaded"))
        view.report(events.GivenUp(1, 7, 2, "instances", "timeout", "no answer", 6))
        view.say("a word")
        view.finished(Finished(RoundOutcome(Round(1, "v1.0.0", 500, False, {}), 25, "--max-time"), None))
    kinds = Counter(one["event"] for one in written)
    assert kinds == {
        "connected": 1,
        "answered": 5,
        "judged": 5,
        "paced": 1,
        "given_up": 1,
        "notice": 1,
        "progress": 2,
        "forecast": 1,
        "round_stopped": 1,
    }
    told = next(one for one in written if one["event"] == "forecast")
    assert (told["whole"], told["tasks"], told["requests"], told["currency"]) == (500, 485, 97, "USD")
    last = [one for one in written if one["event"] == "progress"][-1]
    assert last["drops"] == {"too_similar": 10, "too_short": 5}
    assert (last["accepted"], last["requests_per_second"], last["cost"]) == (25, 1.0, 0.0)
    assert written[-1]["limit"] == "--max-time"


def test_the_form_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config.Settings()
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes no terminal of a log file
    assert type(view_of(settings)) is LineView
    assert type(view_of(settings, lambda values: None)) is JsonView
    one = config.with_overrides(settings, {"endpoint.concurrency": 1})
    assert type(view_of(one)) is StepView
    assert type(view_of(one, lambda values: None)) is JsonView


def test_a_run_on_a_terminal(tmp_path: Path) -> None:
    """It draws while nothing comes, stays within its columns, and leaves only what is said."""
    space = tmp_path / "w"
    tool.run("init", space).check_returncode()
    settings = (space / "selfinstruct.yaml").read_text(encoding="utf-8")
    (space / "selfinstruct.yaml").write_text(
        settings.replace("pictures: auto", "pictures: 'off'"), encoding="utf-8"
    )
    written = b""

    def see(text: bytes) -> None:
        nonlocal written
        written = text

    def held(number: int) -> bool:
        # Until it has drawn often enough with nothing coming.
        return number >= 8 and written.count(b" of 4 in flight") < 12

    with running(Server(delay=lambda number: 0.3 if number < 8 else 0.0, held=held)) as server:
        arguments = ("--tasks", "30", "--endpoint", server.url, "--concurrency", "4")
        lines = on_terminal(80, "grow", space, *arguments, see=see)
    frames = [line for line in lines if re.search(r"\d of 4 in flight", line)]
    assert len(frames) >= 6  # four a second
    heads = [line for line in lines if re.search(r"round 1 .* of 30 tasks", line)]
    assert len(heads) >= 6
    visible = [re.sub(r"\x1b\[[?0-9;]*[A-Za-z]|\r", "", line) for line in (*frames, *heads)]
    assert max(map(len, visible)) <= 80
    assert any("left" in line for line in visible)
    text = "\n".join(lines)
    assert f"{server.url}: test/scripted (tgi 3.3.6-dev0, " in text
    assert "forecast: about " in text
    assert "round 1: 30 tasks, released as " in text
    assert text.rstrip().endswith("releases: v1.0.0")


# Figures as a person reads them.


def test_about() -> None:
    numbers = (0, 1, 9.4, 9.6, 38, 99.7, 234, 1250, 46_789, 994_000, 999_999, 1_234_567, 46e6, 2.5e9)
    assert [pieces.about(number) for number in numbers] == [
        *("0", "1", "9", "10", "38", "100", "230", "1,200", "47,000", "990,000", "1 million", "1.2 million"),
        *("46 million", "2.5 billion"),
    ]


def test_durations() -> None:
    seconds = (0, 3.4, 9.6, 44, 87, 89, 700, 5300, 5400, 20_000, 129_000, 300_000, 3e7)
    assert [pieces.duration(number) for number in seconds] == [
        *(
            "1 s",
            "3 s",
            "10 s",
            "45 s",
            "85 s",
            "1.5 min",
            "12 min",
            "88 min",
            "1.5 h",
            "5.6 h",
            "36 h",
            "3.5 days",
        ),
        "350 days",
    ]


def test_money() -> None:
    assert [pieces.money(amount, "EUR") for amount in (0, 0.00123, 0.9, 12.345, 1234)] == [
        *("0.00 EUR", "0.0012 EUR", "0.90 EUR", "12.35 EUR", "1,234.00 EUR"),
    ]
    assert [pieces.about_money(amount, "EUR") for amount in (0.9, 12.345, 1234)] == [
        *("0.90 EUR", "12 EUR", "1,200 EUR"),
    ]


def test_speeds() -> None:
    assert [pieces.speed(number, "requests") for number in (812, 3.44, 1, 0.2, 0.002, 0)] == [
        *("812 requests/s", "3.4 requests/s", "1.0 requests/s", "12 requests/min", "7.2 requests/h"),
        "0.0 requests/h",
    ]


def test_reasons() -> None:
    counts = {"a": 1, "b": 20, "c": 3}
    assert pieces.reasons(counts) == "b 20, c 3, a 1"
    assert pieces.reasons({**counts, "d": 1}) == "b 20, c 3, a 1, d 1"
    assert pieces.reasons({**counts, "d": 1, "e": 1}) == "b 20, c 3, a 1, 2 others 2"


def test_counted() -> None:
    assert [counted(n, "row") for n in (0, 1, 2, 2000)] == ["0 rows", "1 row", "2 rows", "2,000 rows"]
    assert [counted(n, "row does", "rows do") for n in (1, 2)] == ["1 row does", "2 rows do"]
