"""Grammars that the engine would choke on are refused before it sees them."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from selfinstruct_hub.errors import GrammarError
from selfinstruct_hub.local.grammar import Grammar, GrammarGuard, check_repetition
from selfinstruct_hub.local.weights import find_weights

# What a schema is, wrapped in; the first that is slow is named.
SLOW: list[tuple[str | dict[str, Any], str]] = [
    ("a{1,200}", "{1,200}"),
    ("a{65}", "{65}"),
    ("a{65,}", "{65,}"),
    (r"[^\n]{1,8}x(b|c){3,100}", "{3,100}"),
    ({"properties": {"a": {"type": "string", "maxLength": 65}}}, '"maxLength": 65'),
    ({"properties": {"a": {"type": "string", "minLength": 500}}}, '"minLength": 500'),
    ({"properties": {"a": {"items": {"pattern": "^x{1,99}$"}}}}, "{1,99}"),
    ({"properties": {"a": {"type": "array", "maxItems": 1000}}}, '"maxItems": 1000'),
    ({"$defs": {"t": {"anyOf": [{}, {"maxLength": 100}]}}, "properties": {}}, '"maxLength": 100'),
    ({"patternProperties": {"^a{99}$": {}}}, "{99}"),
]


def grammar(given: str | dict[str, Any]) -> Grammar:
    return Grammar.from_regex(given) if isinstance(given, str) else Grammar.from_schema(given)


@pytest.mark.parametrize(("given", "named"), SLOW, ids=str)
def test_bounded_repetition_is_refused_with_what_to_write(given: str | dict[str, Any], named: str) -> None:
    with pytest.raises(GrammarError) as caught:
        check_repetition(grammar(given))
    assert named in str(caught.value)
    assert "use + or *, and bound the length with max_new_tokens" in str(caught.value)


KEPT: list[str | dict[str, Any]] = [
    "a{2}b{1,8}c{64}d{3,}",
    r"a\{1,200\}",
    "[{1,200}]+",
    r"[\]{1,200}]+",
    "a{x}",
    {"properties": {"a": {"type": "string", "minLength": 1, "maxLength": 64}}},
    {"properties": {"a": {"type": "array", "minItems": 1, "maxItems": 200}}},
    {"properties": {"maxLength": {"type": "string"}, "pattern": {"type": "string"}}},
    {"properties": {"a": {"enum": [{"maxLength": 900}]}, "b": {"const": {"pattern": "a{900}"}}}},
]


@pytest.mark.parametrize("given", KEPT, ids=str)
def test_small_bounds_and_look_alikes_are_kept(given: str | dict[str, Any]) -> None:
    check_repetition(grammar(given))


def test_line_breaks_in_a_pattern_are_spelled_for_the_compiler() -> None:
    assert Grammar.from_regex("[^\n]+\\\n\t").text == r"[^\n]+\n\t"


@pytest.fixture
async def guard() -> AsyncIterator[GrammarGuard]:
    guard = GrammarGuard(find_weights(None).path, seconds=30.0)
    yield guard
    await guard.close()


@pytest.mark.engine
@pytest.mark.xdist_group("engine")
async def test_the_guard_outlives_errors_hangs_and_crashes(guard: GrammarGuard) -> None:
    await guard.check(Grammar.from_regex("[a-z]+"))
    child = guard._child
    assert child is not None

    with pytest.raises(GrammarError, match="Unclosed"):
        await guard.check(Grammar.from_regex("[a-"))
    await guard.check(Grammar.from_regex("[0-9]+"))
    assert guard._child is child, "a grammar that does not compile costs no restart"

    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    await guard.check(Grammar.from_regex("[A-Z]+[0-9]"))

    # Whoever hangs up while a grammar compiles must not leave its answer to the next one.
    waiting = asyncio.create_task(guard.check(Grammar.from_regex("[a-f]{1,60}")))
    await asyncio.sleep(0.005)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):  # unless it was there already
        await waiting
    with pytest.raises(GrammarError):
        await guard.check(Grammar.from_regex("(("))
    await guard.check(Grammar.from_regex("[a-f]{1,60}"))

    # Bounds small enough for the static check, and far too slow together.
    hangs = Grammar.from_regex(r"(([^\n]{1,60}x){1,60}\n[^a]{1,60}){1,60}" * 6)
    child = guard._child
    assert child is not None
    guard._seconds = 0.2
    with pytest.raises(GrammarError, match=r"does not compile within 0\.2 seconds"):
        await guard.check(hangs)
    assert child.returncode is not None, "what hangs is killed"
    with pytest.raises(GrammarError, match="does not compile within"):
        await guard.check(hangs)
    assert guard._child in (None, child), "a verdict is remembered"
