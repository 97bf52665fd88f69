"""The package as a library: its names, what they cost, the example of the README, recipes of one's own."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import selfinstruct_hub
from selfinstruct_hub import Recipe, Workspace, config, recipes
from selfinstruct_hub.errors import ConfigError, PoolError, SelfInstructError, UsageError, WorkspaceError
from selfinstruct_hub.records import Candidate, Instance
from selfinstruct_hub.release import read_manifest
from tests.support import tool
from tests.support.tgi import Server, running, write_tasks

ROOT = Path(__file__).parents[1]
NAMES = [
    *("Candidate", "Complete", "Completion", "Deck", "Decoding", "Hooks", "Instance", "Passes", "Plan", "Recipe"),
    *("SelfInstructError", "Settings", "Task", "Workspace", "__version__", "abandon", "demonstrations", "diff"),
    *(
        "export_file",
        "fill",
        "gc",
        "grow",
        "import_file",
        "pull",
        "push",
        "regenerate",
        "register_recipe",
        "replay",
    ),
    *("report", "reproduce", "review_apply", "review_export", "status", "verify"),
]
FUNCTIONS = [name for name in NAMES if name[0].islower() and not name.startswith("_")]


def python(code: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def test_the_public_names() -> None:
    assert selfinstruct_hub.__all__ == NAMES
    assert set(NAMES) <= set(dir(selfinstruct_hub))
    for name in NAMES:
        assert getattr(selfinstruct_hub, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'shrink'"):
        selfinstruct_hub.shrink  # noqa: B018


def test_what_type_checkers_see_is_what_there_is() -> None:
    source = (ROOT / "selfinstruct_hub" / "__init__.py").read_text(encoding="utf-8")
    block = source.partition("if TYPE_CHECKING:\n")[2].partition("\n__all__")[0]
    assert set(re.findall(r"\w+(?=,|\n|$)", re.sub(r"from \S+ import|\w+ as|[()]", "", block))) == {*NAMES} - {
        "__version__"
    }


def test_the_package_costs_nothing() -> None:
    done = python(
        "import sys; before = set(sys.modules); import selfinstruct_hub\n"
        "print(sorted(n for n in set(sys.modules) - before if n.startswith('selfinstruct_hub.')))\n"
        "print({'pydantic', 'pyarrow', 'numpy', 'aiohttp'} & set(sys.modules))"
    )
    assert done.stdout.split("\n")[:2] == ["[]", "set()"], done.stderr


def test_a_function_keeps_its_name_whatever_was_imported_before() -> None:
    """`grow` is a function, and the room that it is named after."""
    done = python(
        "import importlib, sys\n"
        "for first in ('grow', 'replay', 'run', 'status'):\n"
        "    for name in [name for name in sys.modules if name.partition('.')[0] == 'selfinstruct_hub']:\n"
        "        del sys.modules[name]\n"
        "    importlib.import_module(f'selfinstruct_hub.{first}')\n"
        "    import selfinstruct_hub.grow, selfinstruct_hub.status\n"
        "    from selfinstruct_hub import grow, replay, status\n"
        "    from selfinstruct_hub.grow import grow_round\n"
        "    print(grow.__module__, replay.__module__, status.__module__, grow_round.__module__)"
    )
    names = [*["selfinstruct_hub.library"] * 3, "selfinstruct_hub.grow"]
    assert done.stdout.split() == 4 * names, done.stderr


def test_rooms_are_imported_from_by_their_path() -> None:
    """`from selfinstruct_hub import grow` is the function, and so is `import selfinstruct_hub.grow as grow`."""
    package = ROOT / "selfinstruct_hub"
    shared = "|".join(sorted({place.name.removesuffix(".py") for place in package.iterdir()} & {*NAMES}))
    assert "grow" in shared
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8").partition('"""\n')[2]
        found = re.search(
            rf"from selfinstruct_hub import .*\b({shared})\b|import selfinstruct_hub\.({shared}) as", text
        )
        assert found is None, (
            f"{path}: {found and found[0]}; import from the room: from selfinstruct_hub.grow import"
        )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_documented_and_typed(name: str) -> None:
    function = getattr(selfinstruct_hub, name)
    assert len(inspect.getdoc(function) or "") > 60
    hints = get_type_hints(function)
    assert set(inspect.signature(function).parameters) <= set(hints)
    assert "return" in hints


# What may be done with a workspace.


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(Server()) as server:
        yield server


def examples() -> list[str]:
    """The Python blocks of the README's section."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^### Python\n(.*?)^##", readme, re.M | re.S)
    assert section is not None
    return re.findall(r"^```python\n(.*?)^```", section[1], re.M | re.S)


def test_the_example_of_the_readme_runs(server: Server, tmp_path: Path) -> None:
    example, _ = examples()
    done = python(example.replace("http://gpu:8080", server.url), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0].endswith("v1.0.0 50 rows")
    assert (tmp_path / "my-tasks" / "releases" / "v1.0.1" / "manifest.json").is_file()


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    """The README's second example; without the recipe, one line says which is missing."""
    example = examples()[1]
    assert len([line for line in example.split("\n") if line.strip()]) <= 30

    def answer(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        number = zlib.crc32(f"{prompt}/{parameters.get('seed')}".encode()) % 10**6
        words = [f"{word}{(number >> shift) % 997}" for shift, word in enumerate(["river", "harbour", "tariff"])]
        return (
            f" How does the {' '.join(words)} work?\nAnswer: It works by {words[0]} number {number}.",
            "eos_token",
        )

    with running(Server(answer=answer)) as server:
        code = example.replace("http://gpu:8080", server.url)
        done = python(code, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        space = tmp_path / "questions"
        manifest = read_manifest(space / "releases" / "v1.0.0")
        assert (manifest["recipe"], manifest["tasks"]) == ("questions", 20)
        assert "Recipe: `questions`" in (space / "releases" / "v1.0.0" / "README.md").read_text(encoding="utf-8")
        told = tool.run("grow", space, "--endpoint", server.url)
        assert told.returncode == 2
        assert "`recipe`: expected 'alpaca' or 'self-instruct' (a recipe of your own is registered" in told.stderr
        assert told.stderr.count("\n") == 1
        # The settings name another one, and its rounds are there all the same.
        file = space / "selfinstruct.yaml"
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"^recipe: \w+", "recipe: alpaca", text, flags=re.M), encoding="utf-8")
        told = tool.run("grow", space, "--endpoint", server.url)
        assert told.returncode == 2
        assert "round 1 was grown with the recipe `questions`, which is not known here" in told.stderr
        assert told.stderr.count("\n") == 1


async def _found(candidates: Awaitable[list[Candidate]]) -> list[Candidate]:
    return await candidates


async def _nothing(*_: Any) -> list[Candidate]:
    return [Candidate("Say it.", (Instance("", "It."),)), Candidate("Say.", stage="late")]


@pytest.mark.parametrize("name", ["alpaca", "self-instruct", "import", "Mine", "", "a b", "x" * 65])
def test_names_that_no_recipe_can_have(name: str) -> None:
    with pytest.raises(
        ConfigError, match="expected a name of lower-case letters, digits, - and _ that is none of"
    ):
        recipes.register(Recipe(name, _nothing))


def test_registered_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_REGISTERED", {})
    monkeypatch.setattr(config.models, "_registered", [])
    with pytest.raises(ConfigError, match="`recipe`: expected 'alpaca' or 'self-instruct'"):
        config.validate({"recipe": "mine"}, source="here")
    with pytest.raises(
        ConfigError, match="the recipe `mine` is not known here; a recipe of your own is registered"
    ):
        recipes.named("mine")
    mine = selfinstruct_hub.register_recipe(Recipe("mine", _nothing, stages=("early", "late")))
    assert config.validate({"recipe": "mine"}, source="here").recipe == "mine"
    unasked: Any = None
    found = asyncio.run(_found(recipes.named("mine").run(unasked, unasked, unasked, unasked)))
    assert [one.stage for one in found] == ["early", "late"]
    recipes.register(replace(mine, humans=7))
    assert recipes.named("mine").humans == 7
    with pytest.raises(ConfigError, match="did you mean mine"):
        config.validate({"recipe": "mien"}, source="here")
    with pytest.raises(ConfigError, match="expected one stage or more"):
        recipes.register(replace(mine, stages=()))


def test_settings_by_keyword(tmp_path: Path, server: Server) -> None:
    space = Workspace.create(str(tmp_path / "w"), tasks=7, novelty={"threshold": 0.6}, endpoint=server.url)
    settings = space.settings()
    assert (settings.tasks, settings.novelty.threshold, settings.endpoint.url) == (7, 0.6, server.url)
    assert Workspace.open(str(tmp_path / "w")) == space
    (done,) = selfinstruct_hub.grow(str(tmp_path / "w"), tasks=3, novelty={"threshold": 0.7})
    assert done.release is not None
    assert selfinstruct_hub.verify(str(done.release), load=False).rows["default"] == 3
    found = selfinstruct_hub.status(space)
    assert (found["tasks"], found["versions"]) == (3, ["v1.0.0"])
    with pytest.raises(ConfigError, match=r"settings: unknown setting `novelty\.treshold`; did"):
        selfinstruct_hub.grow(space, novelty={"treshold": 0.5})
    with pytest.raises(ConfigError, match="settings: unknown setting `task`"):
        Workspace.create(tmp_path / "other", task=5)
    assert not (tmp_path / "other").exists()
    with pytest.raises(WorkspaceError, match="no such directory"):
        selfinstruct_hub.status(tmp_path / "none")
    with pytest.raises(UsageError, match=r"rounds: expected a number, \(first, last\) or a range"):
        selfinstruct_hub.gc(space, rounds=(3, 2))
    with pytest.raises(SelfInstructError, match="format: expected seed_tasks, "):
        selfinstruct_hub.export_file(space, tmp_path / "out", "nothing")


def test_in_a_notebook_a_run_has_a_thread_of_its_own(tmp_path: Path, server: Server) -> None:
    async def cell() -> int:
        space = Workspace.create(tmp_path / "w", endpoint=server.url)
        return selfinstruct_hub.grow(space, tasks=2)[0].outcome.accepted

    assert asyncio.run(cell()) == 2


def test_one_function_after_another(tmp_path: Path, server: Server) -> None:
    space = Workspace.create(tmp_path / "w", endpoint=server.url, tasks=6)
    selfinstruct_hub.grow(space)
    assert selfinstruct_hub.export_file(space, str(tmp_path / "out.json"), "alpaca_data").rows == 6
    other = Workspace.create(tmp_path / "other")
    assert selfinstruct_hub.import_file(other, str(tmp_path / "out.json")).tasks == 6
    assert selfinstruct_hub.review_export(other, str(tmp_path / "r.csv"), rounds=1).lines == 6
    assert selfinstruct_hub.review_apply(other, tmp_path / "r.csv").changed == 0
    selfinstruct_hub.grow(space, tasks=2)
    assert selfinstruct_hub.diff(space, "v1.0.0", "v1.1.0").totals["added"] == 2
    assert selfinstruct_hub.report(space, tmp_path / "page.html").is_file()
    assert selfinstruct_hub.replay(space, rounds=(1, 2), dry_run=True).version is None
    assert selfinstruct_hub.reproduce(space.releases / "v1.1.0").differs is None
    assert selfinstruct_hub.gc(space, rounds=1, dry_run=True).answers > 0


def test_rows_go_come_anew_and_are_filled_up(tmp_path: Path) -> None:
    def answer(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        """Tasks where a prompt asks for some, else an output."""
        if prompt.endswith("Instruction:"):
            return write_tasks(prompt, parameters)
        return f" A new answer, number {zlib.crc32(prompt.encode())}.", "eos_token"

    with running(Server(answer=answer)) as server:
        space = Workspace.create(tmp_path / "w", endpoint=server.url, tasks=6)
        selfinstruct_hub.grow(space)
        with pytest.raises(UsageError, match="part: expected output or instance, got 'all'"):
            selfinstruct_hub.regenerate(space, part="all")
        ids = selfinstruct_hub.review_export(space, tmp_path / "r.jsonl")
        rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()]
        stopped = selfinstruct_hub.regenerate(space, ids=[row["id"] for row in rows[:4]], max_requests=1)
        assert stopped.limit == "--max-requests"
        assert selfinstruct_hub.abandon(space).version == "v1.0.1"
        with pytest.raises(PoolError, match="nothing was begun that is not finished"):
            selfinstruct_hub.abandon(space)
        anew = selfinstruct_hub.regenerate(space, ids=[row["id"] for row in rows[:4]])
        assert (anew.done, anew.total("replaced"), ids.lines) == (4, 4, 6)
        rows[5]["verdict"] = "reject"
        (tmp_path / "r.jsonl").write_text(json.dumps(rows[5]) + "\n", encoding="utf-8")
        assert selfinstruct_hub.review_apply(space, tmp_path / "r.jsonl").short == {1: 1}
        filled = selfinstruct_hub.fill(space)
        assert filled.release is not None
        assert selfinstruct_hub.verify(filled.release, load=False).rows["default"] == 6
        assert selfinstruct_hub.fill(space).revision is None
