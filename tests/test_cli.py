"""The command line as its user meets it: a child process, its output, its exit code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from selfinstruct_hub.cli import app
from selfinstruct_hub.cli.choices import duration
from selfinstruct_hub.errors import UsageError
from tests.support import tool
from tests.support.child import Child
from tests.support.tgi import CHAT, GENERATE, MODELS, Server, running, write_steps

ROOT = Path(__file__).parents[1]
SEEDS = ROOT / "seeds" / "en.jsonl"
NOWHERE = "http://127.0.0.1:9"


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the tool in a process of its own, from a directory that is not the checkout."""
    clean = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "SELFINSTRUCT_API_KEY")}
    done = tool.run(*arguments, cwd="/", environment={**clean, "COLUMNS": "120", "NO_COLOR": "1", **environment})
    assert "Traceback" not in done.stderr, done.stderr
    return done


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def new_space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("new") / "w"
    assert command("init", made).returncode == 0
    assert without_pictures(made)
    return made


def without_pictures(space: Path) -> bool:
    """Drawing takes longer than all the rest of a small round."""
    settings = (space / "selfinstruct.yaml").read_text(encoding="utf-8")
    assert "  pictures: auto " in settings
    return write(space / "selfinstruct.yaml", settings.replace("  pictures: auto ", "  pictures: 'off' "))


@pytest.fixture
def space(new_space: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(new_space, tmp_path / "w"))


def test_init_grow_status(tmp_path: Path) -> None:
    made = command("init", tmp_path / "w")
    assert made.returncode == 0
    assert f"next: selfinstruct-hub grow {tmp_path / 'w'}" in made.stdout
    with running(Server()) as server:
        done = command("grow", tmp_path / "w", "--rounds", "2", "--tasks", "5", "--endpoint", server.url)
    assert done.returncode == 0, done.stderr
    assert "test/scripted" in done.stderr
    assert re.search(r"^ +2  v1\.1\.0 +5 +5 ", done.stdout, re.MULTILINE)
    assert "dropped because" in done.stdout
    found = json.loads(command("status", tmp_path / "w", "--json").stdout)
    keys = ["recipe", "language", "seeds", "tasks", "rows", "versions", "rounds"]
    keys += ["revisions", "unfinished", "problems"]
    assert list(found) == keys
    assert (found["tasks"], found["versions"]) == (10, ["v1.0.0", "v1.1.0"])
    contract = {"round", "version", "tasks", "rows", "requests", "completions", "candidates", "drops", "tokens"}
    assert {*contract, "complete"} <= set(found["rounds"][0])
    assert set(found["rounds"][0]["tokens"]) == {"prompt", "generated"}


def test_status_of_a_workspace_without_a_pool(space: Path) -> None:
    assert json.loads(command("status", space, "--json").stdout)["rounds"] == []
    assert "no rounds yet" in command("status", space).stdout


def test_a_cap_exits_with_3_and_says_how_to_go_on(space: Path) -> None:
    with running(Server()) as server:
        done = command("grow", space, "--tasks", "90", "--max-requests", "2", "--endpoint", server.url)
        assert done.returncode == 3
        assert re.search(
            r"stopped by --max-requests \(2 of 2 requests answered\) with \d of 90 tasks in round 1;",
            done.stderr,
        )
        assert re.search(r"or with --tasks \d+ to release the round as it is", done.stderr)
        kept = json.loads(command("status", space, "--json").stdout)
        assert 0 < kept["tasks"] < 90
        assert kept["versions"] == []
        more = command("grow", space, "--tasks", str(kept["tasks"]), "--endpoint", server.url)
    assert more.returncode == 0
    assert json.loads(command("status", space, "--json").stdout)["versions"] == ["v1.0.0"]


def start(space: Path, server: Server, *options: str) -> Child:
    return Child("grow", space, "--endpoint", server.url, *options, cwd="/")


def test_ctrl_c_finishes_what_is_in_flight_and_the_next_start_goes_on(space: Path) -> None:
    with running(Server(held=lambda n: n >= 4)) as server:
        child = start(space, server, "--tasks", "50", "--concurrency", "4")
        child.until(lambda: len(server.requests) >= 8)
        child.send(signal.SIGINT)
        child.says("finishing 4 in flight, 60 s at most; once more stops at once")
        server.held = lambda n: False
        assert child.end() == 130, child.errors
        assert "Traceback" not in child.errors
        assert re.search(
            rf"`selfinstruct-hub grow {space} [^`]*--tasks 50[^`]*` goes on \(\d+ of 50 tasks in round 1\)",
            child.errors,
        )
        assert re.search(r"^ +1  v1\.0\.0 ", child.output, re.MULTILINE)  # the figures of what is kept
        assert len(server.requests) == 8
    kept = json.loads(command("status", space, "--json").stdout)
    assert kept["tasks"] > 0
    assert sum(round_["requests"] + round_["unjudged"] for round_ in kept["rounds"]) == 8
    with running(Server()) as server:
        assert command("grow", space, "--tasks", "50", "--endpoint", server.url).returncode == 0
    assert json.loads(command("status", space, "--json").stdout)["tasks"] == 50


def test_a_second_ctrl_c_stops_at_once(space: Path) -> None:
    settings = (space / "selfinstruct.yaml").read_text(encoding="utf-8")
    write(space / "selfinstruct.yaml", re.sub(r"finish_seconds: [\d.]+", "finish_seconds: 3600", settings))
    with running(Server(held=lambda n: n >= 4)) as server:
        child = start(space, server, "--tasks", "50", "--concurrency", "4")
        child.until(lambda: len(server.requests) >= 8)
        child.send(signal.SIGINT)
        child.says("finishing 4 in flight, 3600 s at most")
        child.send(signal.SIGINT)
        assert child.end() == 130, child.errors
    assert "Traceback" not in child.errors
    assert re.search(rf"`selfinstruct-hub grow {space} [^`]*` goes on", child.errors)


def test_kill_9_and_the_same_command_give_the_release_of_an_uninterrupted_run(tmp_path: Path) -> None:
    """Killed at several moments, requests in flight each time. What was answered is not asked for again."""
    arguments = ("--tasks", "30", "--rounds", "2", "--concurrency", "4")
    digests = []
    for name, kills in (("whole", ()), ("killed", (5, 9, 14))):
        space = tmp_path / name / "w"
        assert command("init", space).returncode == 0
        assert without_pictures(space)
        with running(Server()) as server:
            for moment in kills:
                server.held = lambda n, moment=moment: n >= moment - 4  # type: ignore[misc]
                child = start(space, server, *arguments)
                child.until(lambda moment=moment: len(server.requests) >= moment)  # type: ignore[misc]
                child.kill()
            server.held = lambda n: False
            done = command("grow", space, *arguments, "--endpoint", server.url)
            assert done.returncode == 0, done.stderr
            asked = len(server.requests)
        found = json.loads(command("status", space, "--json").stdout)
        assert (found["tasks"], found["versions"]) == (60, ["v1.0.0", "v1.1.0"])
        stored = sum(round_["requests"] + round_["unjudged"] for round_ in found["rounds"])
        # Beyond what is stored, at most what was in flight at a kill or at the end of a round.
        assert stored <= asked <= stored + 4 * (len(kills) + 2)
        release = space / "releases" / "v1.1.0"
        files = sorted(path for path in release.rglob("*") if path.is_file())
        digests.append([(str(p.relative_to(release)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files])
    assert digests[0] == digests[1]


# Mistakes: one clear line, the right exit code, nothing changed.


def write(path: Path, text: str) -> bool:
    return bool(path.write_text(text, encoding="utf-8")) or True


MISTAKES: dict[str, tuple[Any, list[str], int, str]] = {
    "no such directory": (
        lambda p: shutil.rmtree(p),
        ["grow", "{w}"],
        2,
        "no such directory; `selfinstruct-hub init",
    ),
    "not a workspace": (
        lambda p: (p / "selfinstruct.yaml").unlink(),
        ["grow", "{w}"],
        2,
        "not a workspace (selfinstruct.yaml is missing)",
    ),
    "a workspace already": (lambda p: None, ["init", "{w}"], 2, "is a workspace already"),
    "not empty": (
        lambda p: (p / "selfinstruct.yaml").rename(p / "notes.txt"),
        ["init", "{w}"],
        2,
        "is not empty; name a new or empty directory",
    ),
    "unknown key": (
        lambda p: write(p / "selfinstruct.yaml", "tasks: 3\nnovelty: {treshold: 0.5}\n"),
        ["grow", "{w}"],
        2,
        "unknown setting `novelty.treshold`; did you mean `novelty.threshold`?",
    ),
    "wrong type": (
        lambda p: write(p / "selfinstruct.yaml", "decoding: {temperature: warm}\n"),
        ["grow", "{w}"],
        2,
        "`decoding.temperature`: expected auto or a number",
    ),
    "no seed file": (
        lambda p: write(p / "selfinstruct.yaml", "seeds: mine.jsonl\n"),
        ["grow", "{w}"],
        2,
        "mine.jsonl: no such seed file",
    ),
    "a broken seed": (
        lambda p: (
            write(p / "selfinstruct.yaml", "seeds: mine.jsonl\n"),
            write(p / "mine.jsonl", SEEDS.read_text(encoding="utf-8")[:5000]),
        ),
        ["grow", "{w}"],
        2,
        "not valid JSON",
    ),
    "an empty seed file": (
        lambda p: (write(p / "selfinstruct.yaml", "seeds: mine.jsonl\n"), write(p / "mine.jsonl", "")),
        ["grow", "{w}"],
        2,
        "no seed tasks in it",
    ),
    "seeds of a language we do not have": (
        lambda p: write(p / "selfinstruct.yaml", "language: de\n"),
        ["grow", "{w}"],
        2,
        "no seed tasks of ours for language `de`",
    ),
    "a language without a name": (
        lambda p: (
            write(p / "selfinstruct.yaml", "language: tlh\nseeds: mine.jsonl\n"),
            write(p / "mine.jsonl", SEEDS.read_text(encoding="utf-8")),
        ),
        ["grow", "{w}"],
        2,
        "language_name",
    ),
    "seeds in another language": (
        lambda p: (
            write(p / "selfinstruct.yaml", "language: zh\nseeds: mine.jsonl\n"),
            write(p / "mine.jsonl", SEEDS.read_text(encoding="utf-8")),
        ),
        ["grow", "{w}"],
        2,
        "mine.jsonl, line 1, field `instruction`: ",
    ),
    "a file in no format": (
        lambda p: write(p / "rows.jsonl", '{"question": "a", "answer": "b"}\n'),
        ["import", "{w}", "{w}/rows.jsonl"],
        2,
        "in none of the formats: line 1 has the keys `question`, `answer`",
    ),
    "two formats mixed": (
        lambda p: write(
            p / "rows.jsonl",
            '{"prompt": "a", "completion": "b"}\n{"instruction": "a", "input": "", "output": "b"}\n',
        ),
        ["import", "{w}", "{w}/rows.jsonl"],
        2,
        "line 1 is prompt_completion, line 2 is all_generated_instances",
    ),
    "a row with a wrong field": (
        lambda p: write(
            p / "rows.jsonl",
            '{"instruction": "a", "input": "", "output": "b"}\n{"instruction": "a", "input": "", "output": 7}\n',
        ),
        ["import", "{w}", "{w}/rows.jsonl"],
        2,
        "line 2, field `output`: expected a text, found a number; 1 of 2 rows is bad (line 2): --skip-bad",
    ),
    "no file to import": (lambda p: None, ["import", "{w}", "{w}/rows.jsonl"], 2, "rows.jsonl"),
    "nothing to export": (
        lambda p: None,
        ["export", "{w}", "-", "--format", "messages"],
        1,
        "there is no pool yet",
    ),
    "export in no format": (
        lambda p: None,
        ["export", "{w}", "-", "--format", "auto"],
        2,
        "--format: expected seed_tasks, machine_generated_instructions, machine_generated_instances, "
        "all_generated_instances, gpt3_finetuning_data, alpaca_data, regen, messages, prompt_completion or "
        "conversations, got 'auto'",
    ),
    "import in an unknown format": (
        lambda p: None,
        ["import", "{w}", "rows.jsonl", "--format", "sharegpt"],
        2,
        "--format: expected auto, seed_tasks, machine_generated_instructions, ",
    ),
    "an unknown recipe": (
        lambda p: None,
        ["grow", "{w}", "--recipe", "evol"],
        2,
        "--recipe: expected alpaca or self-instruct, got 'evol'",
    ),
    "an unknown protocol": (
        lambda p: None,
        ["grow", "{w}", "--api", "grpc"],
        2,
        "--api: expected auto, tgi or openai, got 'grpc'",
    ),
    "a time that is none": (
        lambda p: None,
        ["grow", "{w}", "--max-time", "soon"],
        2,
        "--max-time: expected a time such as 90m, 8h, 1h30m or 3600s, got 'soon'",
    ),
    "an amount that is none": (
        lambda p: None,
        ["grow", "{w}", "--max-cost", "nan"],
        2,
        "--max-cost: expected an amount above 0, such as 2.50, got 'nan'",
    ),
    "a limit to the cost without prices": (
        lambda p: None,
        ["grow", "{w}", "--max-cost", "2"],
        2,
        "--max-cost needs to know what tokens cost: set `prices.prompt` and `prices.generated` in "
        "selfinstruct.yaml, for a million tokens each",
    ),
    "an address twice": (
        lambda p: None,
        ["grow", "{w}", "--endpoint", "http://gpu:1", "--endpoint", "http://gpu:1/"],
        2,
        "`endpoint.url`: an address is given twice",
    ),
    "a new workspace of an unknown recipe": (
        lambda p: None,
        ["init", "{w}-new", "--recipe", "evol"],
        2,
        "--recipe: expected alpaca or self-instruct, got 'evol'",
    ),
    "a language whose name we do not know": (
        lambda p: None,
        ["init", "{w}-new", "--language", "tlh", "--seeds", str(SEEDS)],
        2,
        "set `language_name` (init: --language-name)",
    ),
    "no seed file at init": (
        lambda p: None,
        ["init", "{w}-new", "--seeds", "nowhere/f.jsonl"],
        2,
        f"{Path('/nowhere/f.jsonl')}: no such seed file; set `seeds` (init: --seeds) to a JSONL",
    ),
    "a seed column that there is not": (
        lambda p: None,
        ["init", "{w}-new", "--seeds", str(SEEDS), "--seed-column", "answer=output"],
        2,
        "--seed-column: expected NAME=COLUMN with instruction, input, output, is_classification or id for NAME, "
        "got 'answer=output'",
    ),
    "a seed column without a dataset": (
        lambda p: None,
        ["init", "{w}-new", "--seed-column", "output=answer"],
        2,
        "say how to read --seeds; give that too",
    ),
    "no instruction in the seeds": (
        lambda p: None,
        ["init", "{w}-new", "--seeds", str(SEEDS), "--seed-column", "instruction=null"],
        2,
        "`seed_dataset.instruction`: expected",
    ),
    "nothing at the endpoint": (
        lambda p: None,
        ["grow", "{w}", "--endpoint", "http://127.0.0.1:9"],
        1,
        "http://127.0.0.1:9 cannot be reached",
    ),
    "no URL": (lambda p: None, ["grow", "{w}", "--endpoint", "gpu"], 2, "`endpoint.url`: expected a URL such as"),
    "a wrong concurrency": (
        lambda p: None,
        ["grow", "{w}", "--concurrency", "many"],
        2,
        "`endpoint.concurrency`: expected auto or a whole number, got 'many'",
    ),
    "a pool that is none": (
        lambda p: write(p / "pool.sqlite3", "hello " * 999),
        ["status", "{w}"],
        1,
        "not a pool of selfinstruct-hub",
    ),
    "weights that are none": (
        lambda p: write(p / "weights.gguf", "hello"),
        ["grow", "{w}", "--model", "{w}/weights.gguf"],
        2,
        "weights.gguf",
    ),
    "no weights": (lambda p: None, ["grow", "{w}", "--model", "{w}/nowhere.gguf"], 2, "nowhere.gguf"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str, space: Path) -> None:
    prepare, arguments, code, expected = MISTAKES[name]
    prepare(space)
    before = sorted(p.name for p in space.iterdir()) if space.exists() else None
    done = command(*(argument.format(w=space) for argument in arguments))
    assert expected in said(done)
    assert done.returncode == code
    if before is not None:
        assert {p.name for p in space.iterdir()} - set(before) <= {".lock", "pool.sqlite3", "pool.sqlite3-commits"}


def test_fewer_seeds_than_demonstrations(space: Path) -> None:
    write(space / "selfinstruct.yaml", "recipe: self-instruct\nseeds: mine.jsonl\n")
    write(space / "mine.jsonl", "\n".join(SEEDS.read_text(encoding="utf-8").splitlines()[:4]))
    with running(Server()) as server:
        done = command("grow", space, "--endpoint", server.url)
    assert "a prompt shows 6 seed tasks, and there are 4; add seeds, or lower" in said(done)
    assert done.returncode == 2
    assert server.requests == []


def test_another_language_needs_another_workspace(space: Path) -> None:
    with running(Server()) as server:
        assert command("grow", space, "--tasks", "2", "--endpoint", server.url).returncode == 0
        settings = (space / "selfinstruct.yaml").read_text(encoding="utf-8")
        write(space / "selfinstruct.yaml", settings.replace("language: en ", "language: zh "))
        done = command("grow", space, "--tasks", "2", "--endpoint", server.url)
    assert "is in language `en`, and the settings say `zh`" in said(done)
    assert done.returncode == 2


def test_import_and_export(space: Path, tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Name {n} things that {verb} in the {place}.", "input": "", "output": f"{n} of them."}
        for n, (verb, place) in enumerate([("grow", "garden"), ("float", "sea"), ("break", "kitchen")], start=2)
    ]
    write(tmp_path / "rows.json", json.dumps([*rows, {"instruction": "Do it.", "input": "", "output": "x"}, {}]))
    refused = command("import", space, tmp_path / "rows.json")
    assert "row 5: field `instruction` is missing" in said(refused)
    assert "--skip-bad imports the others" in said(refused)
    done = command("import", space, tmp_path / "rows.json", "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert "left out: " in done.stderr
    assert "alpaca_data: 4 rows with 4 instructions, 1 bad row left out; 3 tasks accepted" in done.stdout
    assert re.search(r"^too_short +1$", done.stdout, re.MULTILINE)
    assert f"round 1: released as {space / 'releases' / 'v1.0.0'}" in done.stdout
    again = command("import", space, tmp_path / "rows.json", "--skip-bad")
    assert again.returncode == 1
    assert "no row passed" in said(again)
    out = command("export", space, "-", "--format", "alpaca_data")
    assert json.loads(out.stdout) == rows
    assert "wrote 3 rows of alpaca_data" in out.stderr
    assert command("export", space, tmp_path / "out.jsonl", "--format", "messages").returncode == 0
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["messages"][0]["content"] for line in lines] == [row["instruction"] for row in rows]
    taken = command("export", space, tmp_path / "out.jsonl", "--format", "messages")
    assert taken.returncode == 2
    assert "overwrite it with --force" in said(taken)
    assert command("export", space, tmp_path / "out.jsonl", "--format", "messages", "--force").returncode == 0


def test_saturation_exits_with_3_and_says_so(space: Path) -> None:
    write(space / "selfinstruct.yaml", "saturation: {acceptance: 1.0, rounds: 1}\n")
    with running(Server()) as server:
        done = command("grow", space, "--rounds", "3", "--tasks", "4", "--endpoint", server.url)
    assert done.returncode == 3
    assert "stopped by saturation: the last round's acceptance was" in done.stderr
    assert json.loads(command("status", space, "--json").stdout)["versions"] == ["v1.0.0"]


def test_self_instruct_shows_its_steps(space: Path) -> None:
    with running(Server(answer=write_steps)) as server:
        arguments = ("--tasks", "8", "--recipe", "self-instruct", "--endpoint", server.url)
        done = command("grow", space, *arguments)
    assert done.returncode == 0, done.stderr
    for step in ("instructions", "classification", "instances"):
        assert re.search(rf"^ +1  {step} +\d+ +\d+ +\d+ ", done.stdout, re.MULTILINE), done.stdout
    assert "instances dropped from accepted tasks" in done.stdout


def test_a_pool_of_a_newer_version(space: Path) -> None:
    with running(Server()) as server:
        assert command("grow", space, "--tasks", "2", "--endpoint", server.url).returncode == 0
        with sqlite3.connect(space / "pool.sqlite3") as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
        done = command("grow", space, "--tasks", "2", "--endpoint", server.url)
    assert "made by a newer selfinstruct-hub" in said(done)
    assert done.returncode == 1


def test_endpoints_that_refuse(space: Path) -> None:
    with running(Server(api_key="right")) as server:
        for key in ({}, {"SELFINSTRUCT_API_KEY": "wrong-secret"}):
            done = command("grow", space, "--tasks", "2", "--endpoint", server.url, **key)
            assert "set SELFINSTRUCT_API_KEY" in said(done)
            assert done.returncode == 1
            assert "wrong-secret" not in done.stderr + done.stdout
        key = {"SELFINSTRUCT_API_KEY": "right"}
        assert command("grow", space, "--tasks", "2", "--endpoint", server.url, **key).returncode == 0
    with running(Server(info={"a": 1}, off={GENERATE, CHAT, MODELS})) as server:
        done = command("grow", space, "--endpoint", server.url)
        assert "is neither text-generation-inference nor OpenAI-compatible" in said(done)


def test_a_workspace_in_use(space: Path) -> None:
    from selfinstruct_hub.workspace import Workspace

    with running(Server()) as server, Workspace(space).locked():
        done = command("grow", space, "--tasks", "2", "--endpoint", server.url)
    assert "another process is working on this workspace" in said(done)
    assert done.returncode == 1


def test_output_pipes(space: Path) -> None:
    """A reader that goes away is no error of ours."""
    shell = f"{sys.executable} -m selfinstruct_hub status {space} --json | head -c 5; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_cap_before_anything_is_accepted_offers_no_release(space: Path) -> None:
    def answer(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        return " nothing that could be read", "eos_token"

    with running(Server(answer=answer)) as server:
        done = command("grow", space, "--tasks", "1", "--max-requests", "2", "--endpoint", server.url)
        assert done.returncode == 3
        assert ") with 0 of 1 task in round 1; everything is kept: start" in done.stderr
        assert "--tasks" not in done.stderr
        text = (space / "selfinstruct.yaml").read_text(encoding="utf-8")
        assert write(
            space / "selfinstruct.yaml", re.sub(r"max_barren_requests: \d+", "max_barren_requests: 3", text)
        )
        done = command("grow", space, "--tasks", "1", "--endpoint", server.url)
    assert done.returncode == 3
    assert "stopped: 3 requests in a row brought no accepted task; 0 of 1 task in round 1" in done.stderr


def test_an_endpoint_that_refuses_a_step_is_a_failure(space: Path) -> None:
    server = Server(answer=write_steps)
    refused = json.dumps({"error": "no such thing", "error_type": "validation"})

    def fault(number: int) -> web.Response | None:
        asked_for_tasks = re.search(r"\d+\.$", server.requests[number]["inputs"])
        return None if asked_for_tasks else web.Response(status=422, text=refused)

    server.fault = fault
    with running(server):
        arguments = ("--tasks", "90", "--recipe", "self-instruct", "--endpoint", server.url)
        done = command("grow", space, *arguments)
    assert done.returncode == 1
    assert re.search(r"^stopped: the endpoint has refused 20 requests of the step `.*`", done.stderr, re.MULTILINE)
    assert "; 0 of 90 tasks in round 1; everything is kept." in done.stderr


def test_an_endpoint_that_fails_again_and_again_is_a_failure(space: Path) -> None:
    settings = (space / "selfinstruct.yaml").read_text(encoding="utf-8")
    write(space / "selfinstruct.yaml", re.sub(r"attempts: \d+", "attempts: 1", settings))
    with running(Server(fault=lambda number: web.Response(status=500) if number > 4 else None)) as server:
        done = command("grow", space, "--tasks", "90", "--endpoint", server.url)
    assert done.returncode == 1
    assert re.search(r"^stopped: \d+ of the last \d+ requests failed for good, .*", done.stderr, re.MULTILINE)
    assert re.search(r"; \d+ of 90 tasks in round 1; everything is kept\. Mend the endpoint", done.stderr)
    assert re.search(r"^draw \d+, step tasks: given up after 1 try, server error \(HTTP 500\)", done.stderr, re.M)
    (round_,) = json.loads(command("status", space, "--json").stdout)["rounds"]
    assert round_["completions"] + round_["unjudged"] == 5


@pytest.mark.parametrize("option", ["--max-time", "--max-cost"])
def test_time_and_money_stop_a_run(space: Path, option: str) -> None:
    settings = (space / "selfinstruct.yaml").read_text(encoding="utf-8")
    priced = settings.replace("prompt: null ", "prompt: 100 ").replace("generated: null ", "generated: 100 ")
    write(space / "selfinstruct.yaml", priced)
    limit = {"--max-time": "1s", "--max-cost": "1"}[option]
    with running(Server(delay=lambda number: 0.2)) as server:
        arguments = ("--tasks", "900", "--concurrency", "2", "--endpoint", server.url)
        done = command("grow", space, *arguments, option, limit)
        assert done.returncode == 3, done.stderr
        assert re.search(
            rf"stopped by {option} \(.+\) with \d+ of 900 tasks in round 1; everything is kept", done.stderr
        )
        assert f"start again with a higher {option} to go on" in done.stderr
        asked = len(server.requests)
        assert asked < 30
        again = command("grow", space, *arguments, option, limit)  # both count what came before
        assert again.returncode == 3
        assert len(server.requests) == asked
    (round_,) = json.loads(command("status", space, "--json").stdout)["rounds"]
    if option == "--max-cost":
        assert asked
        assert sum(round_["tokens"].values()) * 100 / 1e6 <= 1


def test_several_endpoints_share_the_load(space: Path) -> None:
    with running(Server(delay=lambda n: 0.02)) as one, running(Server(delay=lambda n: 0.02)) as two:
        both = ("--endpoint", one.url, "--endpoint", two.url)
        done = command("grow", space, "--tasks", "60", *both)
        assert done.returncode == 0, done.stderr
        assert min(len(one.requests), len(two.requests)) > 3
        for server in (one, two):
            assert f"{server.url}: test/scripted (tgi " in done.stderr


def lines_of(text: str) -> list[dict[str, Any]]:
    """Standard error of --log-json: nothing but objects, each with its time."""
    found = [json.loads(line) for line in text.splitlines()]
    for one in found:
        assert list(one)[:2] == ["time", "event"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", one["time"])
    return found


def test_log_json_is_json_from_the_first_line_to_the_last(space: Path) -> None:
    busy = json.dumps({"error": "Model is overloaded", "error_type": "overloaded"})
    server = Server(fault=lambda number: web.Response(status=429, text=busy) if number == 1 else None)
    with running(server):
        arguments = ("--rounds", "2", "--tasks", "40", "--log-json", "--endpoint", server.url)
        done = command("grow", space, *arguments)
        assert done.returncode == 0, done.stderr
        found = lines_of(done.stderr)
        names = [one["event"] for one in found]
        assert names[0] == "connected"
        assert found[0]["model"] == "test/scripted"
        assert names[-1] == "stopped"
        assert {key: found[-1][key] for key in ("reason", "exit_code")} == {"reason": "done", "exit_code": 0}
        assert {"answered", "judged", "retried", "progress", "forecast", "round_finished"} <= set(names)
        status = json.loads(command("status", space, "--json").stdout)
        for round_ in status["rounds"]:
            of_round = [one for one in found if one.get("round") == round_["round"]]
            judged = [one for one in of_round if one["event"] == "judged"]
            assert sum(one["accepted"] for one in judged) == round_["tasks"] == 40
            assert sum(one["candidates"] for one in judged) == round_["candidates"]
            answered = [one for one in of_round if one["event"] == "answered"]
            assert len(answered) == round_["requests"] + round_["unjudged"]
            last = [one for one in of_round if one["event"] == "progress"][-1]
            assert (last["accepted"], last["wanted"], last["drops"]) == (40, 40, round_["drops"])
        retried = next(one for one in found if one["event"] == "retried")
        assert (retried["reason"], retried["said"]) == ("overloaded", "HTTP 429: Model is overloaded")
        finished = [one for one in found if one["event"] == "round_finished"]
        assert [Path(one["release"]).name for one in finished] == ["v1.0.0", "v1.1.0"]
        assert "v1.1.0" in done.stdout  # the result is where it always is

        stopped = command("grow", space, *arguments, "--max-requests", "2")
    assert stopped.returncode == 3
    last = lines_of(stopped.stderr)[-1]
    assert (last["event"], last["reason"], last["exit_code"]) == ("stopped", "--max-requests", 3)
    assert "everything is kept" in last["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--endpoint", "http://127.0.0.1:9"], 1, "http://127.0.0.1:9 cannot be reached"),
        (["--max-time", "never"], 2, "--max-time: expected a time"),
        (["--recipe", "水果"], 2, "--recipe: expected alpaca or self-instruct"),
        (["--tasks", "many"], 2, "--tasks"),
        (["--bogus"], 2, "--bogus"),
    ],
)
def test_mistakes_are_json_too(space: Path, arguments: list[str], code: int, expected: str) -> None:
    done = command("grow", space, *arguments, "--log-json", PYTHONIOENCODING="ascii")
    assert done.returncode == code
    error, stopped = lines_of(done.stderr)[-2:]
    assert expected in error["message"]
    assert (error["event"], error["exit_code"]) == ("error", code)
    assert (stopped["event"], stopped["reason"], stopped["exit_code"]) == ("stopped", "error", code)


def test_one_by_one_every_request_and_every_draw_has_a_line(space: Path) -> None:
    with running(Server(answer=write_steps)) as server:
        arguments = ("--tasks", "5", "--recipe", "self-instruct", "--concurrency", "1", "--endpoint", server.url)
        done = command("grow", space, *arguments)
    assert done.returncode == 0, done.stderr
    assert server.most_in_flight == 1
    requests = re.findall(r"^draw (\d+), step (\w+), request \d+: .* in, .* out, .* s, (.*)$", done.stderr, re.M)
    assert len(requests) == len(server.requests)
    assert {step for _, step, _ in requests} == {"instructions", "classification", "instances"}
    assert {"ended by itself", "cut off by the token limit"} >= {ended for *_, ended in requests}
    draws = re.findall(r"^draw (\d+): (\d+) of (\d+) candidates? accepted", done.stderr, re.MULTILINE)
    assert [int(number) for number, *_ in draws] == list(range(len(draws)))
    assert sum(int(accepted) for _, accepted, _ in draws) == 5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("8h", 28800), ("1h30m", 5400), ("3600s", 3600), ("45", 45), ("1.5h", 5400), ("1d 2H", 93600)],
)
def test_times(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "h", "m30", "1h30", "-5m", "5 minutes", "1h1h", "1e3", "inf", "nan"]
)
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--max-time: expected a time such as 90m, 8h, 1h30m or 3600s"):
        duration(text)


def test_saturation_at_the_end_of_a_run_is_told(space: Path) -> None:
    write(space / "selfinstruct.yaml", "saturation: {acceptance: 1.0, rounds: 1}\n")
    with running(Server()) as server:
        done = command("grow", space, "--tasks", "4", "--endpoint", server.url)
        assert done.returncode == 0, done.stderr
        assert re.search(r"^note: saturation: .*; the next grow stops at once$", done.stderr, re.MULTILINE)
        assert command("grow", space, "--tasks", "4", "--endpoint", server.url).returncode == 3


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """A dataset whose columns have other names, in two splits."""
    folder = tmp_path / "answers"
    folder.mkdir()
    for split, sea in (("train", "sea"), ("test", "lake")):
        rows = [{"q": f"Name {n} things in the {sea}.", "a": f"{n} fish.", "input": "unused"} for n in range(2, 9)]
        write(folder / f"{split}.jsonl", "\n".join(map(json.dumps, rows)))
    return folder


def test_seeds_with_other_columns(answers: Path, tmp_path: Path) -> None:
    """What the message asks for can be typed."""
    start = ("init", tmp_path / "w", "--seeds", answers)
    said_first = said(command(*start))
    assert "`seed_dataset.instruction` (init: --seed-column instruction=...)" in said_first
    columns = ["--seed-column", "instruction=q"]
    assert "(init: --seed-column output=...)" in said(command(*start, *columns))
    columns += ["--seed-column", "output=a", "--seed-column", "input=null"]
    assert "(init: --seed-split) to one of: train, test" in said(command(*start, *columns, "--seed-split", "dev"))
    assert "(init: --seed-config)" in said(command(*start, *columns, "--seed-config", "x"))
    assert not (tmp_path / "w").exists()
    assert command(*start, *columns, "--seed-split", "test", "--seed-config", "default").returncode == 0
    from selfinstruct_hub import config, seeds

    settings = config.load(tmp_path / "w" / "selfinstruct.yaml")
    assert settings.seed_dataset == config.SeedDataset(
        instruction="q", output="a", input=None, split="test", config="default"
    )
    tasks = seeds.load(settings, tmp_path / "w")
    assert tasks[0].instruction == "Name 2 things in the lake."
    assert tasks[0].instances[0].input == ""


def test_what_is_typed_for_seeds_is_relative_to_the_working_directory(tmp_path: Path) -> None:
    from selfinstruct_hub import config
    from selfinstruct_hub.cli.growing import _seeds_setting

    nowhere = os.path.relpath(tmp_path / "none.jsonl", "/")
    assert f"{tmp_path / 'none.jsonl'}: no such seed file" in said(
        command("init", tmp_path / "w", "--seeds", nowhere)
    )
    here = os.path.relpath(SEEDS, "/")
    assert command("init", tmp_path / "w", "--seeds", here).returncode == 0
    setting = config.load(tmp_path / "w" / "selfinstruct.yaml").seeds
    assert setting is not None
    assert (tmp_path / "w" / setting).resolve() == SEEDS
    assert _seeds_setting("org/name", tmp_path) == "org/name"
    assert _seeds_setting("~", tmp_path / "w") == os.path.relpath(Path.home().resolve(), tmp_path.resolve() / "w")
    assert "--seeds: expected a path" in said(command("init", tmp_path / "v", "--seeds", ""))


def test_languages_with_subtags_and_names_of_their_own(tmp_path: Path) -> None:
    for code, seeds in (("zh-TW", "60 seed tasks"), ("EN", "175 seed tasks")):
        assert command("init", tmp_path / code, "--language", code).returncode == 0
        assert seeds in command("doctor", tmp_path / code, "--endpoint", NOWHERE).stdout
    done = command(
        *("init", tmp_path / "tlh", "--language", "tlh", "--language-name", "Klingon", "--seeds", SEEDS)
    )
    assert done.returncode == 0, done.stderr
    assert "language_name: Klingon " in (tmp_path / "tlh" / "selfinstruct.yaml").read_text(encoding="utf-8")


def test_an_import_settles_the_language(space: Path, tmp_path: Path) -> None:
    """The pool's language is told before anybody looks for seeds of the new one."""
    row = {"instruction": "Name three colours of the rainbow.", "input": "", "output": "Red, green and blue."}
    write(tmp_path / "rows.jsonl", json.dumps(row))
    assert command("import", space, tmp_path / "rows.jsonl").returncode == 0
    settings = (space / "selfinstruct.yaml").read_text(encoding="utf-8")
    write(space / "selfinstruct.yaml", settings.replace("language: en ", "language: fr "))
    for done in (command("grow", space), command("import", space, tmp_path / "rows.jsonl")):
        assert "is in language `en`, and the settings say `fr`" in said(done)


# Output: whatever it goes to, one line says what is wrong with it.

CHINESE = {"instruction": "列举三种常见的水果，并说明它们的颜色。", "input": "", "output": "苹果是红色的。"}


@pytest.fixture(scope="module")
def chinese_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chinese")
    space = folder / "水果"
    assert command("init", space, "--language", "zh").returncode == 0
    write(folder / "rows.jsonl", json.dumps(CHINESE))
    assert command("import", space, folder / "rows.jsonl").returncode == 0
    return folder


@pytest.fixture
def chinese(chinese_rows: Path, tmp_path: Path) -> Path:
    """A workspace in Chinese whose folder has a Chinese name, with one task."""
    shutil.copytree(chinese_rows, tmp_path, dirs_exist_ok=True)
    return tmp_path / "水果"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_output_is_utf_8_whatever_the_locale(chinese: Path, encoding: str) -> None:
    locale = {"PYTHONIOENCODING": encoding}
    made = command("init", f"{chinese}-二", "--domain", "医学", **locale, PYTHONUTF8="0")
    assert f"made {chinese}-二" in made.stdout
    row = {**CHINESE, "instruction": "介绍一座你喜欢的城市及其历史。"}
    write(chinese.parent / "more.jsonl", json.dumps(row))
    done = command("import", chinese, chinese.parent / "more.jsonl", **locale)
    assert f"released as {chinese / 'releases'}" in done.stdout
    assert "2 tasks accepted" in command("status", chinese, **locale).stdout
    assert f"workspace: {chinese}" in command("doctor", chinese, "--endpoint", NOWHERE, **locale).stdout
    exported = command("export", chinese, "-", "--format", "all_generated_instances", **locale)
    assert json.loads(exported.stdout.splitlines()[0])["output"] == CHINESE["output"]
    if encoding != "utf-16":  # which standard error is left in
        assert "is a workspace already" in said(command("init", chinese, **locale))


def test_export_says_which_rows_do_not_read_back(chinese: Path) -> None:
    wrote = command("export", chinese, "-", "--format", "messages")
    assert wrote.stderr == "wrote 1 row of messages\n"
    row = {**CHINESE, "instruction": "介绍一座你喜欢的城市及其历史。", "input": "南京，一座古城。"}
    write(chinese.parent / "more.jsonl", json.dumps(row))
    assert command("import", chinese, chinese.parent / "more.jsonl").returncode == 0
    for name in ("messages", "prompt_completion"):
        assert command("export", chinese, "-", "--format", name).stderr == (
            f"wrote 2 rows of {name}; 1 row does not read back to the same texts in this format (see README)\n"
        )
    assert command("export", chinese, "-", "--format", "seed_tasks").stderr == "wrote 2 rows of seed_tasks\n"
    assert "do not read back to the same texts" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_name_that_is_no_text_is_printed(tmp_path: Path) -> None:
    done = command("init", os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    assert done.returncode == 0
    assert "made" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [
        *(("status {w}", ""), ("status {w}", "1"), ("status {w} --json", ""), ("--version", "")),
        ("export {w} - --format messages", ""),
    ],
)
def test_output_that_cannot_be_written(chinese: Path, arguments: str, unbuffered: str) -> None:
    for into, said_of_it in ((">/dev/full", "No space left on device"), (">&-", "standard output is closed")):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m selfinstruct_hub {arguments.format(w=chinese)} {into}"],
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
        lines = done.stderr.splitlines()
        assert lines[-1].startswith("error: standard output"), done.stderr
        assert said_of_it in lines[-1]
        assert len(lines) == 1
        assert done.returncode in ((1, 2) if "export" in arguments else (1,))


def test_closed_standard_error_is_no_mistake(chinese: Path) -> None:
    shell = f"{sys.executable} -m selfinstruct_hub import {chinese} {chinese.parent / 'rows.jsonl'} 2>&-"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, encoding="utf-8")
    assert done.returncode == 1  # it is in the pool already
    assert "1 row with 1 instruction; 0 tasks accepted" in done.stdout


# Contracts.


def commands() -> list[str]:
    return sorted(c.name or c.callback.__name__ for c in app.registered_commands if c.callback)


def test_every_command_has_help_with_an_example_and_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(commands()) >= 5
    for name in commands():
        text = command(name, "--help").stdout
        assert f"Example: selfinstruct-hub {name}" in text
        assert f"selfinstruct-hub {name}" in readme, f"{name} is not in the README"
        for option in set(re.findall(r"(--[a-z-]+) ", text)) - {"--help"}:
            assert option in readme, f"{name} {option} is not in the README"


def test_choices_are_those_that_there_are() -> None:
    """The command line knows them without importing what has them."""
    from typing import get_args

    from selfinstruct_hub import config, formats
    from selfinstruct_hub.cli import choices as cli

    assert sorted(cli.FORMAT_NAMES) == sorted(formats.NAMES)
    assert config.RECIPES == cli.RECIPES
    assert get_args(config.EndpointSettings.model_fields["api"].annotation) == cli.APIS
    others = {"config", "split", "revision", "limit"}
    assert [name for name in config.SeedDataset.model_fields if name not in others] == [*cli.SEED_COLUMNS]


@pytest.mark.parametrize("name", ["import", "export"])
def test_help_names_every_format_on_80_columns(name: str) -> None:
    from selfinstruct_hub import formats

    text = command(name, "--help", COLUMNS="80").stdout
    assert max(map(len, text.splitlines())) <= 80
    before_the_options = text.partition("Arguments")[0].split()
    for format in formats.NAMES:
        assert format in before_the_options
    assert ("auto" in text) == (name == "import")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['x', '--help']\n"
        "from selfinstruct_hub.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'aiohttp', 'datasets', 'pyarrow', 'numpy', 'pydantic', 'transformers', 'openvino', 'yaml'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


def test_version() -> None:
    from selfinstruct_hub import __version__

    assert command("--version").stdout.strip() == f"selfinstruct-hub {__version__}"
