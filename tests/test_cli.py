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
import time
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub.cli import app
from tests.support.tgi import Server, running, write_steps

ROOT = Path(__file__).parents[1]
SEEDS = ROOT / "seeds" / "en.jsonl"


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the tool in a process of its own, from a directory that is not the checkout."""
    clean = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "SELFINSTRUCT_API_KEY")}
    done = subprocess.run(
        [sys.executable, "-m", "selfinstruct_hub", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
        env={**clean, "HF_HUB_OFFLINE": "1", "COLUMNS": "120", "NO_COLOR": "1", **environment},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def space(tmp_path: Path) -> Path:
    assert command("init", tmp_path / "w").returncode == 0
    return tmp_path / "w"


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
        assert re.search(r"stopped by --max-requests with \d of 90 tasks in round 1; all are kept", done.stderr)
        kept = json.loads(command("status", space, "--json").stdout)
        assert 0 < kept["tasks"] < 90
        assert kept["versions"] == []
        more = command("grow", space, "--tasks", str(kept["tasks"]), "--endpoint", server.url)
    assert more.returncode == 0
    assert json.loads(command("status", space, "--json").stdout)["versions"] == ["v1.0.0"]


def test_ctrl_c_exits_with_130_and_the_next_start_goes_on(space: Path) -> None:
    with running(Server(delay=lambda n: 0.2 if n < 4 else 30)) as server:
        child = subprocess.Popen(
            [
                *(sys.executable, "-m", "selfinstruct_hub", "grow", str(space), "--tasks", "50"),
                *("--endpoint", server.url, "--concurrency", "4"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(server.requests) < 8:
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
        assert child.returncode == 130, errors
        assert "Traceback" not in errors
        assert f"`selfinstruct-hub grow {space}` goes on" in errors
        kept = json.loads(command("status", space, "--json").stdout)
        assert kept["tasks"] > 0
    with running(Server()) as server:
        assert command("grow", space, "--tasks", "50", "--endpoint", server.url).returncode == 0
    assert json.loads(command("status", space, "--json").stdout)["tasks"] == 50


def test_kill_9_and_the_same_command_give_the_release_of_an_uninterrupted_run(tmp_path: Path) -> None:
    """Killed at several moments, requests in flight each time. What was answered is not asked for again."""
    arguments = ("--tasks", "30", "--rounds", "2", "--concurrency", "4")
    digests = []
    for name, kills in (("whole", ()), ("killed", (5, 9, 14))):
        space = tmp_path / name / "w"
        assert command("init", space).returncode == 0
        with running(Server(delay=lambda n: 0.02)) as server:
            for moment in kills:
                child = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "selfinstruct_hub", "grow", str(space)),
                        *(*arguments, "--endpoint", server.url),
                    ],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline and len(server.requests) < moment:
                    time.sleep(0.005)
                child.kill()
                child.wait()
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
    "export in no format": (lambda p: None, ["export", "{w}", "-", "--format", "auto"], 2, "name the format"),
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
        assert {p.name for p in space.iterdir()} - set(before) <= {".lock", "pool.sqlite3"}


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
    assert "alpaca_data: 4 rows with 4 instructions, 1 bad ones left out; 3 tasks accepted" in done.stdout
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
    assert "instances were dropped from tasks that go on without them" in done.stdout


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
    with running(Server(info={"a": 1})) as server:
        done = command("grow", space, "--endpoint", server.url)
        assert "is not text-generation-inference" in said(done)


def test_a_workspace_in_use(space: Path) -> None:
    from selfinstruct_hub.workspace import Workspace

    with running(Server()) as server, Workspace(space).locked():
        done = command("grow", space, "--tasks", "2", "--endpoint", server.url)
    assert "another process is working on this workspace" in said(done)
    assert done.returncode == 1


def test_doctor_says_what_is_wrong(space: Path) -> None:
    def answer(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        return " Paris", "length"

    with running(Server(answer=answer)) as server:
        good = command("doctor", space, "--endpoint", server.url)
        assert good.returncode == 0, good.stdout
        assert "serves test/scripted, context 8192 tokens, 128 requests at a time, no key sent" in good.stdout
        assert "175 seed tasks" in good.stdout
    write(space / "selfinstruct.yaml", "tasks: x\n")
    bad = command("doctor", space, "--endpoint", "http://127.0.0.1:9")
    assert bad.returncode == 1
    assert re.search(r"^FAIL  workspace: .*`tasks`", bad.stdout, re.MULTILINE)
    assert re.search(r"^FAIL  endpoint: http://127.0.0.1:9 cannot be reached", bad.stdout, re.MULTILINE)


def test_output_pipes(space: Path) -> None:
    """A reader that goes away is no error of ours."""
    shell = f"{sys.executable} -m selfinstruct_hub status {space} --json | head -c 5; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


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

    from selfinstruct_hub import cli, config, formats

    assert [name.value for name in cli.FormatName] == [formats.AUTO, *formats.NAMES]
    for choice, section, name in (
        (cli.RecipeName, config.Settings, "recipe"),
        (cli.Api, config.EndpointSettings, "api"),
    ):
        assert [one.value for one in choice] == list(get_args(section.model_fields[name].annotation))


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
