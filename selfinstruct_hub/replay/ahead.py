"""Reading answers ahead in a second process, while the first one judges: parsers and the rules that look at one
candidate alone, whose verdict depends on nothing else. The first one reads too where it would have to wait.

Only for recipes of ours with one stage, which another process knows too, and only where there is enough to do.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import IO, Any

from selfinstruct_hub import filters
from selfinstruct_hub.errors import SelfInstructError
from selfinstruct_hub.judging import rules_of
from selfinstruct_hub.judging.again import Ruling
from selfinstruct_hub.pool import encoding
from selfinstruct_hub.pool.again import StoredDraw
from selfinstruct_hub.records import Candidate, Round, canonical_json, task_of
from selfinstruct_hub.replay import collecting
from selfinstruct_hub.replay.answers import Reader

# Below so many draws the process would still be starting when the other is done.
LEAST_DRAWS = 4000
# Batches that the other process has to read, and that are held in all.
_AHEAD, _HELD = 3, 8
OURS = ("alpaca",)

Read = list[tuple[list[Candidate], list[Ruling]]]
Batch = tuple[list[StoredDraw], Read]


def read_ahead(round_: Round, batches: Iterator[list[StoredDraw]]) -> Iterator[Batch]:
    """The draws of each batch with their candidates and what the rules say of each, in order."""
    # A process of its own and no fork or spawn of this one, whose main module may be anybody's script.
    command = [sys.executable, "-c", "from selfinstruct_hub.replay.ahead import answer; answer()"]
    path = [place for place in sys.path if place]
    with (
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        ) as process,
        # In threads, because both ends may wait for the other to read.
        ThreadPoolExecutor(1, thread_name_prefix="answers") as sending,
        ThreadPoolExecutor(1, thread_name_prefix="answers") as receiving,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        reading: _Reading | None = None
        # Batches in order, each with what is read of it or will be.
        waiting: deque[tuple[list[StoredDraw], Future[Read] | None, Read]] = deque()
        try:
            sending.submit(_send, process.stdin, (round_.number, dict(round_.settings)))
            while True:
                asked = sum(there is not None and not there.done() for _, there, _ in waiting)
                while asked < _AHEAD and (batch := next(batches, None)) is not None:
                    # What its parser needs, and nothing of what was judged.
                    answers = [StoredDraw(draw.number, draw.judged, answers=draw.answers) for draw in batch]
                    sending.submit(_send, process.stdin, answers)
                    waiting.append((batch, receiving.submit(_received, process.stdout), []))
                    asked += 1
                if not waiting:
                    return
                batch, there, found = waiting[0]
                if there is None or there.done() or len(waiting) >= _HELD:
                    waiting.popleft()
                    yield batch, there.result() if there is not None else found
                elif (batch := next(batches, None)) is not None:
                    # There is nothing to judge yet, so this process reads as well.
                    reading = reading or _Reading(round_.number, round_.settings)
                    waiting.append((batch, None, reading.read(batch)))
                else:
                    wait([there])
        finally:
            # Where the caller goes away in the middle, nobody reads what is still being made.
            process.kill()
            sending.shutdown(cancel_futures=True)
            receiving.shutdown(cancel_futures=True)
            # What it has not read any more is no error of its own, and hides none.
            with suppress(BrokenPipeError):
                process.stdin.close()


class _Reading:
    """What reads answers, in either process."""

    def __init__(self, number: int, settings: Mapping[str, Any]) -> None:
        self._reader = Reader(Round(number, "", 0, True, settings), None)
        self._rules = rules_of(settings)

    def read(self, draws: Sequence[StoredDraw]) -> Read:
        found: Read = []
        for draw in draws:
            candidates = self._reader.candidates(draw)
            found.append((candidates, [ruling(candidate, self._rules) for candidate in candidates]))
        return found


def _send(pipe: IO[bytes], value: Any) -> None:
    with suppress(BrokenPipeError):  # told by what is missing in the answer
        pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
        pipe.flush()


def _received(pipe: IO[bytes]) -> Read:
    try:
        found: Read = pickle.load(pipe)
    except EOFError:
        raise SelfInstructError(
            "the process that reads answers ahead has ended, and nothing was changed; start again"
        ) from None
    return found


def answer() -> None:
    """In the other process: reads batches from standard input until it ends, and writes what it found."""
    # Ctrl-C is the first one's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reading = _Reading(*pickle.load(sys.stdin.buffer))
    with collecting.rarely():
        while True:
            try:
                draws: Sequence[StoredDraw] = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            _send(sys.stdout.buffer, reading.read(draws))


def ruling(candidate: Candidate, rules: filters.Rules) -> Ruling:
    """What the rules say of a candidate, and what would be stored of it."""
    text = encoding.candidate_text(candidate)
    drop = filters.instruction_drop(candidate, rules)
    if drop is not None or candidate.failure is not None:
        return Ruling(candidate.instruction, drop, None, None, text, None)
    kept = filters.kept_instances(candidate, rules)
    if kept[2] is not None:
        return Ruling(candidate.instruction, None, kept, None, text, None)
    task = task_of(candidate, kept[0])
    return Ruling(candidate.instruction, None, kept, task, text, canonical_json(encoding.task_values(task)))
