"""Replay and reproduce of rounds that other revisions have changed: what stands is what the answers give."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub import config, run, top_up
from selfinstruct_hub.config import Settings
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.regenerate import regenerate
from selfinstruct_hub.regenerate.choosing import Choice
from selfinstruct_hub.replay import Replayed, replay
from selfinstruct_hub.reproduce import Reproduced, reproduce
from selfinstruct_hub.rounds import short
from selfinstruct_hub.workspace import Workspace
from tests.support.revising import rows_of, shorten, write_all
from tests.support.tgi import WORDS, Server, running

# One process for all: what they begin with is made once.
pytestmark = pytest.mark.xdist_group("replay_revised")
LOOPING = "filters.max_repeated_share"


def write_similar(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
    """Like `write_all`; what Alpaca's step brings has an item more, much like that of every other answer."""
    text, end = write_all(prompt, parameters)
    if prompt.endswith("Instruction:"):
        word = WORDS[int(parameters["seed"]) % 3]
        text += f"9. Instruction: Say in ten words why a treaty on the {word} trade was never signed by all.\n"
        text += f"9. Input: None\n9. Output: It was about the {word}.\n###\n"
    return text, end


def loops(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
    """Outputs that run in circles, which a rule may or may not mind."""
    text, end = write_all(prompt, parameters)
    if not prompt.endswith("Output:"):
        return text, end
    return " so it goes on and on" * 12 + "\n###\nTask:", "stop_sequence"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(Server(answer=write_similar)) as server:
        yield server


def settings_for(space: Workspace, url: str, **values: object) -> Settings:
    return config.with_overrides(space.settings(), {"endpoint.url": url, **values})


def grown(path: Path, server: Server, *, rounds: int = 2, **values: object) -> Workspace:
    defaults = {"card.pictures": "off", "tasks": 10, **values}
    space = Workspace.create(path, config.with_overrides(config.Settings(), defaults))
    for _ in range(rounds):
        run.grow(space, settings_for(space, server.url))
    return space


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    """Two rounds of Alpaca."""
    return grown(tmp_path_factory.mktemp("made") / "w", server).path


@pytest.fixture
def space(made: Path, tmp_path: Path) -> Workspace:
    return Workspace.at(shutil.copytree(made, tmp_path / "w"))


def rows(space: Workspace, number: int) -> list[tuple[str, str, str]]:
    with Pool.open(space.pool_file, read_only=True) as pool:
        return rows_of(pool, number)


def drops(space: Workspace, number: int) -> dict[str, int]:
    with Pool.open(space.pool_file, read_only=True) as pool:
        return dict(pool.counts(number)["drops"])


def nothing_changes(found: Replayed) -> bool:
    told = [one.as_dict() for one in found.rounds if one.changed]
    assert (found.version, told) == (None, [])
    return True


def is_reproduced(space: Workspace, version: str) -> Reproduced:
    found = reproduce(space.releases / version)
    assert found.differs is None, found.differs
    return found


def test_rows_that_were_written_anew_are_what_their_answers_give(space: Workspace, server: Server) -> None:
    """Rejected candidates name the row that they were too near to, which has another id now."""
    settings = settings_for(space, server.url)
    assert drops(space, 1)["too_similar"] > 0
    done = regenerate(space, settings, Choice())
    assert done.total("replaced") > 10
    assert nothing_changes(replay(space, settings))
    parts = {part.name: part for part in is_reproduced(space, "v1.1.1").parts}
    assert parts["v1.1.1 (regenerate)"].checked, parts["v1.1.1 (regenerate)"].said
    assert "answers read again, the same rows" in parts["v1.1.1 (regenerate)"].said


def test_evaluation_sets_that_are_named_later_are_not_asked_about_earlier_rounds(space: Workspace) -> None:
    instruction = rows(space, 1)[0][0]
    (space.path / "exam.jsonl").write_text(json.dumps({"instruction": instruction}) + "\n", encoding="utf-8")
    settings = config.with_overrides(space.settings(), {"decontamination.against": ["exam.jsonl"]})
    (space.path / config.FILE_NAME).write_text(config.render(settings), encoding="utf-8")
    assert all(part.checked for part in is_reproduced(space, "v1.1.0").parts)


def test_rows_that_a_rule_has_taken_out_come_back_as_they_were_written_last(
    space: Workspace, server: Server
) -> None:
    with running(Server(answer=loops)) as other:
        lax = settings_for(space, other.url, **{LOOPING: 1.0})
        done = regenerate(space, lax, Choice(rounds=(1, 1)))
    assert done.total("replaced") > 5
    new = rows(space, 1)
    strict = settings_for(space, server.url, **{LOOPING: 0.3})
    lost = replay(space, strict)
    assert lost.rounds[0].lost >= done.total("replaced") - lost.rounds[0].won
    # The same rules once more: what the rows replaced does not come back.
    assert nothing_changes(replay(space, strict))
    back = replay(space, lax)
    assert back.version is not None
    assert [row for row in rows(space, 1) if row in set(new)] == new
    assert (
        not {output for _, _, output in rows(space, 1)}
        - {output for _, _, output in new}
        - {
            # Surplus and unneeded answers, which the short round had taken meanwhile.
            output
            for instruction, _, output in rows(space, 1)
            if instruction not in {text for text, _, _ in new}
        }
    )
    for folder in sorted(space.releases.iterdir()):
        is_reproduced(space, folder.name)


def write_sound(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
    """Four tasks that every rule lets pass."""
    rng = random.Random(f"{prompt}/{parameters['seed']}")
    items = [f"{n}. Instruction: Weigh {' '.join(rng.sample(WORDS, 9))}.\n" for n in range(4, 8)]
    whole = [f"{item}{n}. Input: None\n{n}. Output: It is {n}.\n###\n" for n, item in enumerate(items, start=4)]
    return "".join(whole).removeprefix("4. Instruction:"), "eos_token"


def test_what_was_surplus_before_a_top_up_stays_so(tmp_path: Path) -> None:
    with running(Server(answer=write_sound)) as server:
        space = grown(tmp_path / "w", server, rounds=1, tasks=9)
        settings = settings_for(space, server.url)
        assert drops(space, 1).get("surplus", 0) > 0
        shorten(space, {1: 4})
        assert top_up.top_up(space, settings).won == {1: 4}
    stood = rows(space, 1)
    assert nothing_changes(replay(space, settings))
    assert rows(space, 1) == stood
    is_reproduced(space, "v1.0.2")


def test_a_top_up_is_judged_again_against_what_it_saw(space: Workspace, server: Server) -> None:
    """It may not have what round 2 has already, and round 2 was grown without it."""
    second = [text for text, _, _ in rows(space, 2)]

    def near(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        rng = random.Random(f"{prompt}/{parameters['seed']}")
        texts = [rng.choice(second), f"Weigh {' '.join(rng.sample(WORDS, 9))}.", "Do it."]
        items = [
            f"{'' if n == 4 else f'{n}. Instruction:'} {text}\n{n}. Input: None\n{n}. Output: It is {n}.\n###\n"
            for n, text in enumerate(texts, start=4)
        ]
        return "".join(items), "eos_token"

    shorten(space, {1: 4})
    with running(Server(answer=near)) as other:
        settings = settings_for(space, other.url)
        filled = top_up.top_up(space, settings)
        assert filled.short == {}
        assert drops(space, 1)["too_similar"] > 0
        assert nothing_changes(replay(space, settings))
        run.grow(space, settings_for(space, server.url))
        assert nothing_changes(replay(space, settings))
        # Of the rounds that are chosen, too.
        assert nothing_changes(replay(space, settings, rounds=range(1, 2)))
        assert nothing_changes(replay(space, settings, rounds=range(2, 4)))
    stood = {number: rows(space, number) for number in (1, 2, 3)}
    won = replay(space, config.with_overrides(settings, {"filters.min_words": 2}))
    assert {number: [row for row in rows(space, number) if row in stood[number]] for number in stood} == stood
    assert won.rounds[0].won == 1  # "Do it."
    for folder in sorted(space.releases.iterdir()):
        is_reproduced(space, folder.name)


def test_answers_of_a_top_up_that_brought_nothing_are_not_counted_against_another_model(space: Workspace) -> None:
    shorten(space, {1: 4})
    with Pool.open(space.pool_file) as pool, pool._transaction() as db:
        db.execute("DELETE FROM completions WHERE (round, number) NOT IN (SELECT round, number FROM draws)")
    with running(Server(answer=lambda prompt, parameters: (" Do it.", "eos_token"))) as mute:
        filled = top_up.top_up(space, settings_for(space, mute.url, max_barren_requests=3))
    assert (filled.won, filled.release) == ({1: 0}, None)
    with running(Server(answer=write_all)) as better:
        better.info["model_id"] = "test/better"
        filled = top_up.top_up(space, settings_for(space, better.url, max_barren_requests=3))
    assert filled.won == {1: 4}


@pytest.mark.parametrize(("recipe", "language"), [("alpaca", "en"), ("self-instruct", "zh")])
def test_every_version_of_a_long_life_is_what_its_answers_give(
    tmp_path: Path, server: Server, recipe: str, language: str
) -> None:
    space = grown(tmp_path / "w", server, recipe=recipe, language=language, tasks=8)
    settings = settings_for(space, server.url)
    assert regenerate(space, settings, Choice(rounds=(1, 1))).release is not None
    assert nothing_changes(replay(space, settings))
    shorten(space, {1: 3, 2: 2})
    assert top_up.top_up(space, settings).won == {1: 3, 2: 2}
    assert nothing_changes(replay(space, settings))
    assert regenerate(space, settings, Choice(part="instance")).release is not None
    assert nothing_changes(replay(space, settings))
    run.grow(space, settings)
    words = [rows(space, 3)[0][0], rows(space, 1)[0][0]]
    strict = config.with_overrides(settings, {"filters.blocked_words": [word[3:-2] for word in words]})
    lost = replay(space, strict)
    assert lost.version is not None
    assert nothing_changes(replay(space, strict))
    with Pool.open(space.pool_file) as pool:
        missing = short(pool)
    assert top_up.top_up(space, strict).won == missing
    assert nothing_changes(replay(space, strict))
    run.grow(space, strict)
    assert nothing_changes(replay(space, strict))
    found = [is_reproduced(space, folder.name) for folder in sorted(space.releases.iterdir())]
    unchecked = {part.name.rpartition(" ")[2] for one in found for part in one.parts if not part.checked}
    assert unchecked == {"(review)", "(top_up)"}
