"""Refuses a grammar that the engine cannot compile in time, before the engine sees it.

The engine compiles a grammar inside a decoding step: a grammar that does not compile breaks the whole
batch for good, and one that takes long stops every other request meanwhile. So an unseen grammar is read for
bounded repetition, then compiled once in a child process (`compiler.py`) under a deadline.
"""

import asyncio
import json
import re
import sys
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from selfinstruct_hub.errors import GrammarError, LocalEngineError
from selfinstruct_hub.local.runtime import PACKAGE_PARENT

LARGEST_REPEAT = 64
"""The largest number in {m,n}, minLength or maxLength. Compiling {1,64} takes 0.7 s on two cores and {1,200}
two seconds; two or three of the latter in one pattern take seven to ten."""
LARGEST_ITEMS = 256
"""The largest minItems or maxItems: these cost little (0.06 s for 200)."""
COMPILE_SECONDS = 5.0
START_SECONDS = 120.0
IDLE_SECONDS = 120.0
_INSTEAD = "use + or *, and bound the length with max_new_tokens"
_REPEAT = re.compile(r"\{(\d+)(?:,(\d*))?\}")
# Values of these keywords are data, not schemas.
_DATA = {"enum", "const", "default", "examples"}
# Keys inside these are names the user chose, not keywords.
_NAMED = {"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"}


@dataclass(frozen=True)
class Grammar:
    """`text` is a regular expression, or a JSON schema in one spelling."""

    kind: Literal["json", "regex"]
    text: str

    @classmethod
    def from_schema(cls, schema: object) -> "Grammar":
        return cls("json", json.dumps(schema, ensure_ascii=False))

    @classmethod
    def from_regex(cls, pattern: str) -> "Grammar":
        # The compiler refuses a literal line break inside [...], which every other dialect accepts.
        return cls("regex", re.sub(r"\\?([\n\r\t])", lambda m: repr(m[1])[1:-1], pattern))


def check_repetition(grammar: Grammar) -> None:
    """Raises GrammarError for repetition with bounds the compiler is slow at."""
    reason = _slow_in_regex(grammar.text) if grammar.kind == "regex" else _slow_in_schema(json.loads(grammar.text))
    if reason:
        raise GrammarError(f"{reason} takes the embedded engine too long to compile: {_INSTEAD}")


def _slow_in_regex(pattern: str) -> str | None:
    bare = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "x", pattern, flags=re.DOTALL)
    for found in _REPEAT.finditer(bare):
        if max(int(number) for number in found.groups() if number) > LARGEST_REPEAT:
            return f"the bounded repetition {found[0]} (more than {LARGEST_REPEAT})"
    return None


def _slow_in_schema(schema: Any) -> str | None:
    if isinstance(schema, list):
        return next((reason for part in schema if (reason := _slow_in_schema(part))), None)
    if not isinstance(schema, dict):
        return None
    for key, value in schema.items():
        reason = None
        if key in _NAMED and isinstance(value, dict):
            patterns = value if key == "patternProperties" else {}
            reason = next((r for p in patterns if (r := _slow_in_regex(p))), None)
            reason = reason or _slow_in_schema(list(value.values()))
        elif key in ("minLength", "maxLength", "minItems", "maxItems"):
            largest = LARGEST_REPEAT if key.endswith("Length") else LARGEST_ITEMS
            if isinstance(value, int | float) and value > largest:
                reason = f'"{key}": {value} (more than {largest})'
        elif key == "pattern" and isinstance(value, str):
            reason = _slow_in_regex(value)
        elif key not in _DATA:
            reason = _slow_in_schema(value)
        if reason:
            return reason
    return None


class GrammarGuard:
    """Compiles unseen grammars in a child process, one at a time, and remembers what came of it.

    The child starts with the first unseen grammar and holds a second copy of the weights (about 400 MB), so
    it ends after two idle minutes.
    """

    def __init__(self, weights: Path, *, seconds: float = COMPILE_SECONDS, remembered: int = 512) -> None:
        self._weights = weights
        self._seconds = seconds
        self._remembered = remembered
        self._verdicts: OrderedDict[Grammar, str | None] = OrderedDict()
        self._child: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._judging: set[asyncio.Future[None]] = set()
        self._idle: asyncio.TimerHandle | None = None

    async def check(self, grammar: Grammar) -> None:
        """Raises GrammarError with the reason when the engine must not get this grammar."""
        check_repetition(grammar)
        if grammar not in self._verdicts:
            judging = asyncio.ensure_future(self._judge_in_turn(grammar))
            self._judging.add(judging)
            judging.add_done_callback(self._judging.discard)
            # shielded: a client that hangs up must not leave half an answer in the pipe
            await asyncio.shield(judging)
        self._verdicts.move_to_end(grammar)
        if reason := self._verdicts[grammar]:
            raise GrammarError(reason)

    async def close(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        for judging in list(self._judging):
            judging.cancel()
        await asyncio.gather(*self._judging, return_exceptions=True)
        await self._end_child()

    async def _judge_in_turn(self, grammar: Grammar) -> None:
        async with self._turn:
            if grammar not in self._verdicts:  # it may have been compiled while this one waited
                await self._judge(grammar)

    async def _judge(self, grammar: Grammar) -> None:
        if self._idle is not None:
            self._idle.cancel()
        child = await self._started_child()
        assert child.stdin is not None
        assert child.stdout is not None
        reason: str | None
        try:
            child.stdin.write(json.dumps([grammar.kind, grammar.text]).encode() + b"\n")
            line = await asyncio.wait_for(child.stdout.readline(), self._seconds)
        except asyncio.TimeoutError:
            reason = f"it does not compile within {self._seconds:g} seconds: {_INSTEAD}"
            await self._end_child()
        except ConnectionError:
            reason = "it crashes the compiler"
            await self._end_child()
        else:
            reason = json.loads(line)["error"] if line else "it crashes the compiler"
            if not line:
                await self._end_child()
        self._verdicts[grammar] = reason
        while len(self._verdicts) > self._remembered:
            self._verdicts.popitem(last=False)
        if self._child is not None:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(IDLE_SECONDS, lambda: loop.create_task(self._end_idle_child()))

    async def _started_child(self) -> asyncio.subprocess.Process:
        if self._child is not None and self._child.returncode is None:
            return self._child
        self._child = child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "selfinstruct_hub.local.compiler",
            str(self._weights),
            cwd=PACKAGE_PARENT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert child.stdout is not None
        try:
            ready = await asyncio.wait_for(child.stdout.readline(), START_SECONDS)
        except asyncio.TimeoutError:
            ready = b""
        if not ready:
            await self._end_child()
            raise LocalEngineError("the grammar compiler does not start")
        return child

    async def _end_idle_child(self) -> None:
        async with self._turn:
            await self._end_child()

    async def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()
