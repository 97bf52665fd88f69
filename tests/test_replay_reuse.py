"""A replay that uses again what was compared before gives what one gives that compares everything anew."""

from __future__ import annotations

import importlib
import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfinstruct_hub import config, plan
from selfinstruct_hub.errors import PoolError
from selfinstruct_hub.judging import Judge
from selfinstruct_hub.novelty import Mode, NoveltyGate, search
from selfinstruct_hub.novelty.reuse import Draw, ReusingGate, Was
from selfinstruct_hub.parsing import tasks as task_parser
from selfinstruct_hub.pool import Pool
from selfinstruct_hub.pool.again import Answer, StoredDraw
from selfinstruct_hub.recipes import alpaca
from selfinstruct_hub.records import (
    REGENERATE,
    REVIEW,
    Change,
    Completion,
    Drop,
    Instance,
    Lineage,
    Place,
    Request,
    Round,
    task_of,
)
from selfinstruct_hub.replay import rejudging
from selfinstruct_hub.replay.answers import Reader
from selfinstruct_hub.replay.recall import Limits, still_known
from selfinstruct_hub.rounds import next_revision
from selfinstruct_hub.workspace import Workspace

# Imported by its path: the package's own name is the function.
room = importlib.import_module("selfinstruct_hub.replay")

WORDS = "write name list three rivers which songs tell about quiet towns near old harbours in spring".split()
SIGNS = "请写出三条关于安静小镇的古老河流名字并说明春天港口歌曲"
TABLES = ("verdicts", "draws", "failures", "revisions", "revised_rounds", "past_verdicts")
Parser = Callable[..., Any]
whole: Parser = task_parser.labelled_tasks


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches and indexes so small that a small pool has several, and no release."""
    monkeypatch.setattr(rejudging, "_DRAWS", 5)
    monkeypatch.setattr(search, "_LEAST", 16)
    monkeypatch.setattr(room, "_MEASURED", 3)
    monkeypatch.setattr(room, "package_complete_rounds", lambda *_: [])


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> list[ReusingGate]:
    """The gates that were made."""
    made: list[ReusingGate] = []
    begin = ReusingGate.__init__

    def noted(self: ReusingGate, *given: Any, **named: Any) -> None:
        begin(self, *given, **named)
        made.append(self)

    monkeypatch.setattr(ReusingGate, "__init__", noted)
    return made


def instructions(rng: random.Random, language: str) -> Iterator[str]:
    """Texts of few words; most are much like one that came before."""
    parts, between = (WORDS, " ") if language == "en" else (list(SIGNS), "")
    said: list[list[str]] = []
    while True:
        text = rng.choices(parts, k=rng.randint(4, 9) if language == "en" else rng.randint(6, 14))
        if said and rng.random() < 0.7:
            text = list(rng.choice(said))
            for _ in range(rng.randint(0, 3)):
                text[rng.randrange(len(text))] = rng.choice(parts)
        said.append(text)
        yield between.join(text) + ("" if rng.random() < 0.5 else "." if language == "en" else "。")


def grown(
    path: Path, rng: random.Random, language: str, rounds: int = 2, draws: int = 24, **novelty: Any
) -> Workspace:
    """A workspace with complete rounds, judged one after the other."""
    workspace = Workspace.create(path, config.with_overrides(config.Settings(), {"language": language}))
    add(workspace, rng, rounds, draws, **novelty)
    return workspace


def add(workspace: Workspace, rng: random.Random, rounds: int, draws: int, **novelty: Any) -> None:
    settings = workspace.settings()
    with workspace.locked(), workspace.open_pool(settings) as pool:
        texts = instructions(rng, settings.language)
        for _ in range(rounds):
            number = len(pool.rounds()) + 1
            judged = plan.judging(config.with_overrides(settings, {f"novelty.{k}": v for k, v in novelty.items()}))
            asked = {
                **dict.fromkeys(("domain", "chat", "grammar")),
                "recipe": "alpaca",
                "seed": 42,
                "tasks_per_request": 2,
                "decoding": {"max_new_tokens": 99, "temperature": 1.0},
                "demonstrations": {"human": 3, "machine": 0, "max_characters": None, "max_tokens": None},
            }
            version = f"v1.{number - 1}.0"
            round_ = Round(
                number, version, 10**6, False, {**judged, **asked}, config.publishable(settings).model_dump()
            )
            pool.begin_round(round_)
            judge, reader = Judge.resumed(pool, round_), Reader(round_, None)
            for draw in range(draws):
                items = [
                    f"{'' if n == 4 else f'{n}. Instruction:'} {next(texts)}\n"
                    f"{n}. Input: {rng.choice(['', 'a b'])}\n"
                    f"{n}. Output: {rng.choice(['One.', 'Two words.', ''])}\n###\n"
                    for n in range(4, 4 + rng.randint(0, 4))
                ]
                answer = Answer(alpaca.TASKS, "", 3, "".join(items) or " ", "eos")
                request = Request(number, draw, 0, alpaca.TASKS, "prompt", reader._plan.decoding, ("a", "b", "c"))
                said = Completion(answer.text, "eos", 7, 4, "made/up", "tgi", 0.0, 1.0, 1.0)
                pool.add_completions([(request, said)])
                found = reader.candidates(StoredDraw(draw, False, {0: answer}))
                pool.add_draws(number, [(draw, list(judge.verdicts(draw, found)), ())])
            pool.set_wanted(number, pool.accepted_count(number))
            pool.complete_round(number)


def tables(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(path)) as db:
        return {name: sorted(db.execute(f"SELECT * FROM {name}"), key=repr) for name in TABLES}


def replayed(workspace: Workspace, changes: dict[str, Any], **given: Any) -> dict[str, Any]:
    """Replays as it is done, after it was done with everything compared in a copy; both must be the same."""
    settings = config.with_overrides(workspace.settings(), changes)
    beside = workspace.path.with_name(f"{workspace.path.name}-beside")
    shutil.copytree(workspace.path, beside)
    computed = room.replay(Workspace.at(beside), settings, recompute=True, **given).as_dict()
    found = room.replay(workspace, settings, **given).as_dict()
    assert {**found, "seconds": 0} == {**computed, "seconds": 0}
    assert tables(workspace.pool_file) == tables(Workspace.at(beside).pool_file)
    shutil.rmtree(beside)
    return dict(found)


def revise(workspace: Workspace, rng: random.Random, kind: str) -> None:
    """Other outputs for some tasks, as a regeneration or a review has them; a review takes some out, too."""
    settings = workspace.settings()
    with workspace.locked(), workspace.open_pool(settings) as pool:
        revision = next_revision(pool, kind, [one.number for one in pool.rounds()], {}, settings)
        places: list[Place] = []
        changes: list[Change] = []
        for number in revision.rounds:
            accepted = list(pool.verdicts(number, accepted=True))
            for verdict in rng.sample(accepted, len(accepted) // 5):
                assert verdict.task is not None
                before, item = tuple(key for key, _ in verdict.task.rows), len(places)
                places.append(Place(item, number, verdict.number, verdict.position, None, before))
                if kind == REVIEW and rng.random() < 0.5:
                    after = replace(verdict, task=None, drop=Drop("rejected_by_reviewer"), revised=())
                    rows: tuple[str, ...] = ()
                else:
                    task = task_of(verdict.candidate, [Instance("", f"Otherwise {item}.")])
                    line = Lineage(revision.version, kind, before[0])
                    after = replace(verdict, task=task, revised=((line,),))
                    rows = tuple(key for key, _ in task.rows)
                changes.append(Change(item, after, rows, marks={"verdict": "x"} if kind == REVIEW else None))
        pool.revise_at_once(revision, places, changes, {})


def other_rules(rng: random.Random, language: str) -> dict[str, Any]:
    """Changes of what decides."""
    words = WORDS if language == "en" else list(SIGNS)
    changes: dict[str, Callable[[], Any]] = {
        "filters.blocked_words": lambda: rng.sample(words, rng.randint(0, 2)),
        "filters.min_words": lambda: rng.randint(1, 6),
        "novelty.threshold": lambda: rng.choice([0.3, 0.5, 0.6, 0.7, 0.75, 0.9]),
        "novelty.most_similar": lambda: rng.choice([1, 2, 5, 20]),
        "novelty.mode": lambda: rng.choice(["auto", "full", "fast"]),
    }
    return {name: changes[name]() for name in rng.sample(list(changes), rng.choice([0, 1, 1, 2, 3]))}


PARSERS: list[Parser] = [
    whole,
    whole,
    lambda *a, **k: whole(*a, **k)[1:],
    lambda *a, **k: whole(*a, **k)[::-1],
    lambda *a, **k: [one for one in whole(*a, **k) for _ in range(2)],
]


@pytest.mark.parametrize("seed", range(6))
def test_it_gives_what_comparing_everything_gives(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gates: list[ReusingGate]
) -> None:
    """Over whatever other replays, regenerations, reviews and rounds there were between."""
    rng = random.Random(seed)
    language = ("en", "zh")[seed % 2]
    mode = ("full", "fast")[seed // 2 % 2]
    novelty: dict[str, Any] = {
        "mode": mode,
        "threshold": rng.choice([0.5, 0.6, 0.7]),
        "most_similar": rng.choice([1, 3, 10]),
    }
    monkeypatch.setattr(alpaca, "labelled_tasks", rng.choice(PARSERS))
    workspace = grown(tmp_path / "w", rng, language, **novelty)
    same = {f"novelty.{name}": value for name, value in novelty.items()}
    assert replayed(workspace, same)["changed"] is False
    assert sum(gate.reused for gate in gates) > 10 * sum(gate.compared for gate in gates)
    for _ in range(3):
        match rng.randrange(4):
            case 0:
                revise(workspace, rng, rng.choice([REGENERATE, REVIEW]))
            case 1:
                add(workspace, rng, 1, 12, **novelty)
        monkeypatch.setattr(alpaca, "labelled_tasks", rng.choice(PARSERS))
        monkeypatch.setattr(rejudging, "LEAST_DRAWS", 4000)
        some = range(2, 3) if rng.random() < 0.2 else None
        replayed(workspace, {**same, **other_rules(rng, language)}, rounds=some)


def test_what_is_not_there_any_more_is_compared_and_the_others_are_not(
    tmp_path: Path, gates: list[ReusingGate]
) -> None:
    workspace = grown(tmp_path / "w", random.Random(1), "en", rounds=1, draws=200)
    found = replayed(workspace, {"filters.blocked_words": ["harbours"]})
    assert found["rounds"][0]["lost"] > 0
    (gate,) = gates
    assert gate.reused > 4 * gate.compared > 0


def test_a_fast_measurement_says_nothing_of_what_is_below_its_threshold(
    tmp_path: Path, gates: list[ReusingGate]
) -> None:
    workspace = grown(tmp_path / "w", random.Random(2), "en", rounds=1, mode="fast", threshold=0.7)
    replayed(workspace, {"novelty.mode": "fast", "novelty.threshold": 0.6})
    assert gates.pop().reused == 0
    workspace = grown(tmp_path / "full", random.Random(2), "en", rounds=1, mode="full", threshold=0.7)
    replayed(workspace, {"novelty.threshold": 0.6})
    assert gates.pop().reused > 0


@pytest.mark.parametrize(
    "nearest",
    [
        '{"a": 1}',
        '[["a"]]',
        "[[1, 0.5]]",
        '[["a", "0.5"]]',
        '[["a", 0.8], ["b", 0.9]]',
        "3",
        '[["a", 7]]',
        '[["a", -1]]',
    ],
)
def test_a_damaged_measurement_is_told_in_one_line_and_changes_nothing(nearest: str, tmp_path: Path) -> None:
    workspace = grown(tmp_path / "w", random.Random(3), "en", rounds=1, draws=8)
    with closing(sqlite3.connect(workspace.pool_file)) as db:
        db.execute("UPDATE verdicts SET nearest = ? WHERE score IS NOT NULL AND number = 3", (nearest,))
        db.commit()
    before = tables(workspace.pool_file)
    with pytest.raises(PoolError, match=r"the pool is damaged \(a row does not hold what was stored"):
        room.replay(workspace, workspace.settings())
    assert tables(workspace.pool_file) == before


def test_a_neighbour_that_nobody_knows_is_looked_for_again(tmp_path: Path, gates: list[ReusingGate]) -> None:
    """A pool that somebody has touched by hand: names are not trusted that are not there."""
    workspace = grown(tmp_path / "w", random.Random(3), "en", rounds=1)
    replayed(workspace, {})
    before = gates.pop().compared
    with closing(sqlite3.connect(workspace.pool_file)) as db:
        changed = db.execute(
            "UPDATE verdicts SET nearest = json_set(nearest, '$[0][0]', 'nobody') WHERE reason = 'too_similar'"
        )
        db.commit()
    assert replayed(workspace, {})["changed"] is False
    assert gates.pop().compared == before + changed.rowcount > 0


def test_older_pools_have_candidates_that_nobody_compared(tmp_path: Path, gates: list[ReusingGate]) -> None:
    workspace = grown(tmp_path / "w", random.Random(4), "en", rounds=2)
    with closing(sqlite3.connect(workspace.pool_file)) as db:
        db.execute("UPDATE verdicts SET nearest = '[]', mean = 0, score = NULL, near = NULL WHERE number % 2")
        db.commit()
    replayed(workspace, {"filters.blocked_words": ["rivers"]})
    assert all(gate.reused > 0 and gate.compared > 0 for gate in gates)
    with Pool.open(workspace.pool_file, read_only=True) as pool:
        assert pool.revisions()


@pytest.mark.parametrize("of_format_1", [False, True])
def test_a_round_whose_texts_had_other_words_is_compared_anew(
    tmp_path: Path, gates: list[ReusingGate], of_format_1: bool
) -> None:
    """What it measured is believed of every other round, which shows that it says something else."""
    workspace = grown(tmp_path / "w", random.Random(6), "en", rounds=1)
    with closing(sqlite3.connect(workspace.pool_file)) as db:
        db.execute("UPDATE verdicts SET nearest = '[]', score = 0 WHERE reason = 'too_similar'")
        if of_format_1:
            db.execute("UPDATE rounds SET settings = json_remove(settings, '$.language_name')")
        db.commit()
    if of_format_1:
        assert replayed(workspace, {})["changed"] is False
        assert gates.pop().reused == 0
    else:
        assert room.replay(workspace, workspace.settings()).rounds[0].won > 0
        assert gates.pop().reused > 0


@pytest.mark.parametrize("seed", range(24))
def test_a_gate_says_what_one_says_that_compares_everything(seed: int) -> None:
    """Neighbours, scores and ties, whatever was let in then and is let in now."""
    rng = random.Random(seed)
    most_then, most = rng.choice([1, 2, 3, 10]), rng.choice([1, 2, 3, 10])
    threshold_then, threshold = rng.choice([0.5, 0.6, 0.7]), rng.choice([0.5, 0.6, 0.7])
    modes: list[Mode] = ["full", "fast"]
    mode_then, mode = rng.choice(modes), rng.choice(modes)
    texts = instructions(rng, rng.choice(["en", "zh"]))
    earlier = [(f"e{n}", next(texts)) for n in range(rng.choice([0, 5, 40]))]
    gate_then = NoveltyGate(most_then, mode=mode_then, threshold=threshold_then)
    gate_then.extend(earlier)
    candidates = [next(texts) for _ in range(90)]
    limits = Limits(most_then, threshold_then), Limits(most, threshold)
    was: list[Was] = []
    for place, text in enumerate(candidates):
        found = gate_then.compare(text)
        score = found.score if found.nearest or found.mean is not None else None
        nearest = json.dumps([[one.id, one.score] for one in found.nearest])
        accepted = rng.random() < 0.6
        known = still_known(nearest, found.mean, score, *limits) if rng.random() < 0.95 else None
        was.append(Was(text, f"t{place}" if accepted else None, known))
        if accepted:
            gate_then.add(f"t{place}", text)
    # Now some are missing, some are there that were not, and some have other names.
    now = [(f"{key}'" if rng.random() < 0.1 else key, text) for key, text in earlier if rng.random() < 0.9]
    plain = NoveltyGate(most, mode=mode, threshold=threshold)
    reusing = ReusingGate(most, mode=mode, threshold=threshold)
    for gate in (plain, reusing):
        gate.extend(now)
    reusing.start(None if now == earlier else earlier)
    place, changing = 0, rng.choice([0.0, 0.05, 0.3])
    while place < len(candidates):
        spots = [(at // 3, at % 3) for at in range(place, min(place + rng.choice([3, 30]), len(candidates)))]
        draws = []
        for number in sorted({number for number, _ in spots}):
            some = was[3 * number : 3 * number + 3]
            draws.append(Draw(number, 0, some, len(some) == 3 and rng.random() < 0.9))
        reusing.enter(draws)
        comparison = reusing.of(spots, candidates[place : place + len(spots)])
        for at, text in enumerate(candidates[place : place + len(spots)]):
            expected, found = plain.compare(text), comparison[at]
            above = tuple(one for one in expected.nearest if one.score > threshold)
            assert tuple(one for one in found.nearest if one.score > threshold) == above
            assert mode == "full" or found == expected
            key = was[place + at].task
            if rng.random() < changing:
                key = rng.choice([None, f"n{place + at}"])
            if key is not None:
                plain.add(key, text)
                comparison.accept(at, key)
            assert len(reusing) == len(plain)
        place += len(spots)
    asked = [(rng.choice(candidates), rng.randint(0, len(plain))) for _ in range(5)]
    full = NoveltyGate(most, mode="full")
    full.extend(list(zip(plain._texts.ids, known_texts(plain, candidates, now), strict=True)))
    assert reusing.measured(asked) == [full.compare(text, among=end) for text, end in asked]


def known_texts(gate: NoveltyGate, candidates: list[str], earlier: list[tuple[str, str]]) -> list[str]:
    """The instructions of a gate, by its ids."""
    of = dict(earlier) | {f"{kind}{place}": text for kind in "tn" for place, text in enumerate(candidates)}
    return [of[key] for key in gate._texts.ids]
