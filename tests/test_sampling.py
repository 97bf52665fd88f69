"""Draws depend on their names only, and on nothing that a platform or a run could change."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from selfinstruct_hub import sampling
from selfinstruct_hub.records import Instance, Task, estimated_tokens

TASKS = [Task(str(i), f"task {i}", (Instance("", "x"),)) for i in range(20)]
MADE = [Task(f"m{i}", f"made {i}", (Instance("", "x"),)) for i in range(20)]


def draw(seed: int, round_number: int, request_number: int, machines: int = 0) -> tuple[str, ...]:
    rng = sampling.rng_of(seed, round_number, request_number, "demonstrations")
    shown = sampling.demonstrations(TASKS, MADE[: 10 * machines], humans=3, machines=machines, rng=rng)
    return tuple(task.id for task in shown)


def test_a_draw_is_a_function_of_its_name() -> None:
    assert draw(42, 1, 7) == draw(42, 1, 7)
    draws = {(s, r, n): draw(s, r, n) for s in (1, 2) for r in (1, 2) for n in range(50)}
    assert len(set(draws.values())) > 190
    assert all(len(set(d)) == 3 for d in draws.values())


def test_draws_are_the_same_on_every_python() -> None:
    # Written down once: a change here would make resumed runs repeat or skip draws.
    assert draw(42, 1, 0) == PINNED
    assert draw(42, 1, 0, machines=2) == PINNED_MIXED
    assert sampling.request_seed(42, 1, 0, 0) == PINNED_SEED


def test_every_task_is_drawn_about_as_often() -> None:
    counts = Counter(task for number in range(2000) for task in draw(5, 1, number))
    assert set(counts) == {task.id for task in TASKS}
    assert 230 < min(counts.values()) <= max(counts.values()) < 370  # 300 expected, s.d. 16


def test_purposes_of_one_request_have_generators_of_their_own() -> None:
    found = {sampling.rng_of(1, 1, 0, purpose).random() for purpose in ("demonstrations", "instances")}
    assert len(found) == 2


def test_machine_made_tasks_stand_anywhere_among_the_seeds() -> None:
    places: Counter[int] = Counter()
    for number in range(500):
        ids = draw(5, 1, number, machines=2)
        assert len(set(ids)) == 5
        assert sum(i.startswith("m") for i in ids) == 2
        places.update(place for place, i in enumerate(ids) if i.startswith("m"))
    assert set(places) == {0, 1, 2, 3, 4}
    assert 140 < min(places.values()) <= max(places.values()) < 260  # 200 expected, s.d. 11


@pytest.mark.parametrize(
    ("human", "machine", "expected"),
    [
        (20, 5, (6, 2)),
        (20, 1, (7, 1)),  # seeds take the places of tasks that are not there yet
        (20, 0, (8, 0)),
        (4, 5, (4, 2)),  # but nothing takes the places of seeds
        (0, 1, (0, 1)),
        (0, 0, (0, 0)),
    ],
)
def test_seeds_take_the_places_of_missing_machine_made_tasks(
    human: int, machine: int, expected: tuple[int, int]
) -> None:
    shown = sampling.demonstrations(TASKS[:human], MADE[:machine], humans=6, machines=2, rng=random.Random(1))
    made = sum(task.id.startswith("m") for task in shown)
    assert (len(shown) - made, made) == expected


def test_request_seeds_differ_and_fit_every_server() -> None:
    found = {sampling.request_seed(42, r, n, c) for r in (1, 2) for n in range(100) for c in (0, 1)}
    assert len(found) == 400
    assert all(0 <= seed < 2**31 for seed in found)


@pytest.mark.parametrize(
    ("costs", "most", "room", "expected"),
    [
        ([10, 20, 30], 5, None, ([10, 20, 30], 3)),  # no bound: as many as there are
        ([10, 20, 30], 2, None, ([10, 20, 30], 2)),
        ([10, 20, 30], 2, 60, ([10, 20, 30], 2)),  # 30 tokens for each
        ([10, 20, 30], 3, 60, ([10, 20, 30], 2)),  # three would have 20 each, which one of them exceeds
        ([10, 10, 10, 90], 4, 40, ([10, 10, 10], 3)),  # the long one would not leave room for four
        ([50, 40, 30], 3, 35, ([30], 1)),  # no two fit: the shortest alone
        ([50, 40, 30], 3, 0, ([30], 1)),  # not even one does: shown all the same, a step needs one
        ([], 4, 100, ([], 0)),
    ],
)
def test_fewer_and_shorter_tasks_where_room_is_small(
    costs: list[int], most: int, room: int | None, expected: tuple[list[int], int]
) -> None:
    tasks = [Task(str(cost), "", ()) for cost in costs]
    short, count = sampling.fitting(tasks, most, room, lambda task: int(task.id))
    assert ([int(task.id) for task in short], count) == expected
    if room and count > 1:
        assert count * max(int(task.id) for task in short) <= room


def test_what_showing_a_task_costs() -> None:
    task = Task("a", "Sort.", (Instance("b, a", "a, b"), Instance("never shown", "either")))
    assert sampling.length(task) == len("Sort.b, aa, b")
    assert sampling.tokens(task) == estimated_tokens("Sort.b, aa, b") == 5
    assert sampling.tokens(Task("a", "Sort.", ())) == 2
    assert estimated_tokens("排序。") == 1 + 6  # the bytes of another script count


PINNED = ("17", "16", "5")
PINNED_MIXED = ("m17", "16", "5", "17", "m16")
PINNED_SEED = 672577530
