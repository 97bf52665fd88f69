"""A saturated GPU server over real HTTP, with slots, a queue and faults: text-generation-inference's protocol, or
OpenAI's.

    python -m tests.support.gpu --slots 32 --tokens-per-second 200

Where `tgi.py` answers as a test scripts it, this server takes time as a GPU does. It generates for `slots`
requests at a time; others queue, first in, first out. How long an answer holds its slot follows from a length
drawn for it, a few long ones among many short, whatever text is really sent. Places are taken or refused at
once, as TGI does it (429 above `max_concurrent_requests`, queued ones included). It keeps an exact record of when
slots were busy and of what it has answered, and can spoil tries in every way that servers and proxies do.

As a process of its own it prints its address, tells its record as JSON on GET /statistics, and ends when its
standard input does: a server in the client's process would share Python's lock with what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.tgi import CHAT_TOKENIZE, GENERATE, INFO, TOKENIZE, Answer, Server, running, write_steps

_ROOT = Path(__file__).resolve().parents[2]
# Disconnected clients are looked for so often (seconds): aiohttp tells a handler nothing of its own accord.
_LOOK_EVERY = 0.02
# Requests of a second load begin so long after a refusal (seconds).
_OTHERS_PAUSE = 0.2

# The texts. Thousands of different words, so that a novelty gate has a real vocabulary to compare.

_SYLLABLES = "ba ce di fo gu ha jo ke li mo nu pa que ri so ta ve wi xo zu bran cel dor fen gral".split()
_SPELT = [f"{a}{b}{c}" for a, b, c in itertools.product(_SYLLABLES, _SYLLABLES, ["", *_SYLLABLES])]
VOCABULARY = random.Random(0).sample(_SPELT, 6000)
_VERBS = (
    "Describe Compare Summarise Rewrite List Explain Translate Outline Classify Calculate Invent Correct Name "
    "Suggest Arrange Estimate Shorten Continue Justify Answer"
).split()
_JOINTS = "the of a for and in with to from that is by about as".split()


def instruction(rng: random.Random) -> str:
    """An order of 7 to 21 words, half of them common ones, as in any language, and no two alike."""
    words = rng.choices(VOCABULARY, k=rng.randint(3, 10))
    joints = rng.choices(_JOINTS, k=len(words))
    return (
        f"{rng.choice(_VERBS)} {' '.join(f'{joint} {word}' for joint, word in zip(joints, words, strict=True))}."
    )


def items(count: int) -> Answer:
    """Writes `count` Alpaca items of usual lengths, whatever number was asked for."""

    def write(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        rng = random.Random(f"{prompt}/{parameters.get('seed')}")
        first = int(re.findall(r"(\d+)\. Instruction:$", prompt)[0])
        parts = []
        for number in range(first, first + count):
            given = " ".join(rng.choices(VOCABULARY, k=12)) + "." if rng.random() < 0.4 else "<noinput>"
            output = " ".join(rng.choices(VOCABULARY, k=rng.randint(10, 60)))
            label = "" if number == first else f"{number}. Instruction:"
            parts.append(f"{label} {instruction(rng)}\n{number}. Input: {given}\n")
            parts.append(f"{number}. Output: {output.capitalize()}.\n###\n")
        return "".join(parts), "eos_token"

    return write


def recipes(count: int) -> Answer:
    """Writes what the recipe asks for: `count` Alpaca items, `count` instructions, a kind, or instances."""
    alpaca = items(count)

    def write(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
        if prompt.endswith("Instruction:"):
            return alpaca(prompt, parameters)
        if number := re.search(r"\n(\d+)\.$", prompt):
            rng = random.Random(f"{prompt}/{parameters.get('seed')}")
            first = int(number[1])
            lines = [f"{first + place}. {instruction(rng)}" for place in range(count)]
            return "\n".join(lines).removeprefix(f"{first}."), "eos_token"
        return write_steps(prompt, parameters)

    return write


def tokens(prompt: str, parameters: dict[str, Any], *, shortest: int, tail: float) -> int:
    """How long an answer is: bounded Pareto from `shortest` to the tokens that it may have, the heavier the
    smaller `tail` is. With 100, 1.1 and 3,000 the mean is about 330 and every eighth is longer than 600."""
    longest = int(parameters.get("max_new_tokens") or 1024)
    if longest <= shortest:
        return longest
    share = random.Random(f"{prompt}/{parameters.get('seed')}/length").random()
    low, high = shortest**-tail, longest**-tail
    return min(longest, int((low - share * (low - high)) ** (-1 / tail)))


# Faults, each of them seen in the wild.

FAULTS = (
    *("429", "429 with Retry-After", "424", "500", "503 page"),
    *("cut", "cut in the middle", "hang", "truncated", "page", "JSON as text/html", "empty"),
)
# A try with this one is answered in full: a client can and should read it.
WHOLE = "JSON as text/html"


def faulty(share: float, *, seed: int = 0, kinds: tuple[str, ...] = FAULTS) -> Callable[[int], str | None]:
    """Spoils `share` of the tries, each by its number alone."""

    def fault(number: int) -> str | None:
        rng = random.Random(f"{seed}/{number}")
        return rng.choice(kinds) if rng.random() < share else None

    return fault


# What is left of a server that speaks OpenAI's protocol only, as vLLM does.
CHAT_MODEL = "test/scripted"
_CHAT_ONLY: dict[str, Any] = {
    "off": frozenset({INFO, GENERATE, CHAT_TOKENIZE, TOKENIZE}),
    "models": [{"id": CHAT_MODEL, "object": "model", "owned_by": "vllm", "max_model_len": 8192}],
}


@dataclass(eq=False)
class _Place:
    """One of the requests that are queued or generated. Times are the loop's, in seconds."""

    arrived: float
    seconds: float
    ended: asyncio.Future[bool]  # True: generated to its end
    transport: asyncio.Transport | None = None
    started: float | None = None
    timer: asyncio.TimerHandle | None = None


@dataclass
class Record:
    """What a server has seen. Times are seconds of the machine's monotonic clock, the same for all processes."""

    slots: int
    tries: int = 0
    overloaded: int = 0  # refused because every place was taken; scripted refusals are faults
    disconnected: int = 0
    most_in_flight: int = 0
    # Of every request answered in full: its sampling seed, when it came, when its answer was on its way.
    answered: list[tuple[int, float, float]] = field(default_factory=list)
    generated: list[tuple[float, float]] = field(default_factory=list)  # when a slot was busy
    faults: Counter[str] = field(default_factory=Counter)

    @classmethod
    def read(cls, values: dict[str, Any]) -> Record:
        """A record out of GET /statistics."""
        return cls(
            **{
                **values,
                "answered": [(seed, came, left) for seed, came, left in values["answered"]],
                "generated": [(start, end) for start, end in values["generated"]],
                "faults": Counter(values["faults"]),
            }
        )

    def busy_share(self, start: float, end: float) -> float:
        """The share of slot-time between two moments in which a request was generated."""
        busy = sum(max(0.0, min(e, end) - max(s, start)) for s, e in self.generated)
        return busy / (self.slots * (end - start))

    def first_full(self, share: float = 1.0) -> float | None:
        """The first moment when all slots, or `share` of them, were busy."""
        changes = sorted([(s, 1) for s, _ in self.generated] + [(e, -1) for _, e in self.generated])
        busy = 0
        for moment, change in changes:
            busy += change
            if busy >= share * self.slots:
                return moment
        return None


@dataclass
class GPU(Server):
    """The server. `tokens_per_second` is that of each slot; None answers at once, without slots and queue.

    `others` are requests of a second load: so many are always on the server, from `others_from` to `others_until`
    seconds after it began to listen."""

    answer: Answer = field(default_factory=lambda: recipes(1))
    slots: int = 32
    tokens_per_second: float | None = None
    max_concurrent_requests: int = 128
    shortest: int = 100
    tail: float = 1.1
    script: Callable[[int], str | None] = lambda number: None
    retry_after: str = "1"
    others: int = 0
    others_from: float = 0.0
    others_until: float = float("inf")
    record: Record = field(init=False)
    _places: set[_Place] = field(default_factory=set)
    _waiting: deque[_Place] = field(default_factory=deque)
    _busy: int = 0
    _began: float = 0.0
    _looking: asyncio.TimerHandle | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.info["max_concurrent_requests"] = self.max_concurrent_requests
        self.record = Record(self.slots)

    def app(self) -> web.Application:
        app = super().app()
        app.router.add_get("/statistics", self._statistics)
        app.on_startup.append(self._begin)
        app.on_cleanup.append(self._end)
        return app

    async def _begin(self, app: web.Application) -> None:
        self._began = asyncio.get_running_loop().time()
        self._tasks = {asyncio.create_task(self._other(index)) for index in range(self.others)}

    async def _end(self, app: web.Application) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._looking is not None:
            self._looking.cancel()

    async def _statistics(self, request: web.Request) -> web.Response:
        return web.json_response(vars(self.recorded()))

    def recorded(self) -> Record:
        """The record so far, with what is generated at this moment."""
        now = asyncio.get_running_loop().time()
        running = [(p.started, now) for p in self._places if p.started is not None]
        return Record(**{**vars(self.record), "generated": self.record.generated + running})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._served(request, body["inputs"], body["parameters"], chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        parameters = {**body, "max_new_tokens": body.get("max_tokens")}
        return await self._served(request, body["messages"][-1]["content"], parameters, chat=True)

    async def _served(
        self, request: web.Request, prompt: str, parameters: dict[str, Any], *, chat: bool
    ) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        number = self.record.tries
        self.record.tries += 1
        fault = self.script(number)
        if fault is not None:
            self.record.faults[fault] += 1
            if (refusal := self._refusal(fault)) is not None:
                return refusal
            if fault == "cut":
                return _aborted(request)
        if len(self._places) >= self.max_concurrent_requests:
            self.record.overloaded += 1
            return _overloaded()
        length = tokens(prompt, parameters, shortest=self.shortest, tail=self.tail)
        seconds = length / self.tokens_per_second if self.tokens_per_second else 0.0
        place = _Place(arrived, seconds, loop.create_future(), request.transport)
        if fault == "hang":
            self._take(place)  # holds a place and never a slot: nothing is generated
            await place.ended
            return _aborted(request)
        if self.tokens_per_second:
            self._take(place)
            self._enter(place)
            if not await place.ended:
                return web.Response()  # to nobody
        else:
            # The record knows of requests in flight, but nobody waits.
            self.record.most_in_flight = max(self.record.most_in_flight, len(self._places) + 1)
            place.started = arrived
        assert place.started is not None
        text, reason = self.answer(prompt, parameters)
        # Whoever speaks OpenAI's protocol only says nothing of times.
        form = _openai_form if chat else _native_form
        content = json.dumps(form(text, reason, len(prompt) // 4, length, parameters.get("seed"))).encode()
        headers = {"Content-Type": "text/html" if fault in (WHOLE, "page") else "application/json"}
        if not chat:
            headers |= {
                "x-prompt-tokens": str(len(prompt) // 4),
                "x-generated-tokens": str(length),
                "x-queue-time": str(round((place.started - arrived) * 1000)),
                "x-inference-time": str(round(seconds * 1000)),
                "x-total-time": str(round((place.started - arrived + seconds) * 1000)),
            }
        whole = len(content)
        if fault == "page":
            content = b"<html><body>Please wait.</body></html>"
        elif fault == "truncated":
            content = content[: whole // 2]
        elif fault == "empty":
            content = b""
        response = web.StreamResponse(headers=headers)
        response.content_length = whole if fault == "cut in the middle" else len(content)
        try:
            await response.prepare(request)
            if fault == "cut in the middle":
                await response.write(content[: whole // 2])
                return _aborted(request, response)
            await response.write_eof(content)
        except ConnectionResetError:  # the client has gone while its answer was written
            self.record.disconnected += 1
            return response
        if fault in (None, WHOLE):
            self.record.answered.append((parameters.get("seed", -1), arrived, loop.time()))
        return response

    def _refusal(self, fault: str) -> web.Response | None:
        if fault == "429":
            return _overloaded()
        if fault == "429 with Retry-After":
            return _overloaded({"Retry-After": self.retry_after})
        if fault == "424":
            error = {"error": "Request failed during generation: CUDA error", "error_type": "generation"}
            return web.json_response(error, status=424)
        if fault == "500":
            error = {"error": "Incomplete generation", "error_type": "incomplete_generation"}
            return web.json_response(error, status=500)
        if fault == "503 page":
            return web.Response(text="<html>Service unavailable</html>", status=503, content_type="text/html")
        return None

    # Places and slots. What happens at a moment is reckoned from when it was due, not from when the loop came to
    # it: a GPU takes its next request whether or not this process has a processor at that moment.

    def _take(self, place: _Place) -> None:
        self._places.add(place)
        self.record.most_in_flight = max(self.record.most_in_flight, len(self._places))
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_EVERY, self._look)

    def _enter(self, place: _Place) -> None:
        if self._busy < self.slots:
            self._start(place, place.arrived)
        else:
            self._waiting.append(place)

    def _start(self, place: _Place, moment: float) -> None:
        self._busy += 1
        place.started = moment
        loop = asyncio.get_running_loop()
        place.timer = loop.call_at(moment + place.seconds, self._leave, place, moment + place.seconds, True)

    def _leave(self, place: _Place, moment: float, generated: bool) -> None:
        """Ends `place`, and gives its slot to the next in the queue."""
        self._places.discard(place)
        if place.started is not None:
            self.record.generated.append((place.started, moment))
            self._busy -= 1
            if self._waiting:
                following = self._waiting.popleft()
                self._start(following, max(moment, following.arrived))
        elif place in self._waiting:
            self._waiting.remove(place)
        if not place.ended.done():
            place.ended.set_result(generated)

    def _look(self) -> None:
        """Frees the places of clients that have gone."""
        loop = asyncio.get_running_loop()
        for place in [p for p in self._places if p.transport is not None and p.transport.is_closing()]:
            if place.timer is not None:
                place.timer.cancel()
            self.record.disconnected += 1
            self._leave(place, loop.time(), False)
        self._looking = loop.call_later(_LOOK_EVERY, self._look) if self._places else None

    async def _other(self, index: int) -> None:
        """One request of the second load after another: no HTTP, but a place and a slot like any."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self.others_from)
        for number in itertools.count():
            if loop.time() - self._began > self.others_until:
                return
            if len(self._places) >= self.max_concurrent_requests:
                await asyncio.sleep(_OTHERS_PAUSE)
                continue
            seed = f"other/{index}/{number}"
            length = tokens("", {"seed": seed, "max_new_tokens": 3000}, shortest=self.shortest, tail=self.tail)
            place = _Place(loop.time(), length / (self.tokens_per_second or 1e9), loop.create_future())
            self._take(place)
            self._enter(place)
            await place.ended


def _native_form(text: str, reason: str, prompt_tokens: int, generated: int, seed: int | None) -> dict[str, Any]:
    details = {"finish_reason": reason, "generated_tokens": generated, "seed": seed, "prefill": [], "tokens": []}
    return {"generated_text": text, "details": details}


def _openai_form(text: str, reason: str, prompt_tokens: int, generated: int, seed: int | None) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    finish = "length" if reason == "length" else "stop"
    return {
        "object": "chat.completion",
        "id": f"chat-{seed}",
        "created": 0,
        "model": CHAT_MODEL,
        "system_fingerprint": "",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": prompt_tokens + generated,
        },
    }


def _overloaded(headers: dict[str, str] | None = None) -> web.Response:
    error = {"error": "Model is overloaded", "error_type": "overloaded"}
    return web.json_response(error, status=429, headers=headers)


def _aborted(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Ends the connection without a word."""
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response()


@contextmanager
def process(*options: str) -> Iterator[str]:
    """The address of a server in a process of its own, until the block ends. `options` as on the command line."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.support.gpu", *options],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        address = child.stdout.readline().strip()
        assert address, "the server did not start"
        yield address
    finally:
        child.stdin.close()
        child.wait(10)
        child.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--tokens-per-second", type=float, help="of each slot; without it, answers come at once")
    parser.add_argument("--max-concurrent-requests", type=int, default=128)
    parser.add_argument("--shortest", type=int, default=100, help="tokens of the shortest answers")
    parser.add_argument("--tail", type=float, default=1.1, help="exponent of the lengths; smaller is heavier")
    parser.add_argument("--items", type=int, default=1, help="tasks in every answer that writes tasks")
    parser.add_argument("--faults", type=float, default=0.0, help="share of tries that are spoilt")
    parser.add_argument("--others", type=int, default=0, help="requests of a second load")
    parser.add_argument("--others-from", type=float, default=0.0, help="seconds until the second load begins")
    parser.add_argument("--others-until", type=float, default=float("inf"), help="seconds until it ends")
    parser.add_argument("--chat-only", action="store_true", help="OpenAI's protocol only, as vLLM speaks it")
    given = vars(parser.parse_args())
    server = GPU(
        answer=recipes(given.pop("items")),
        script=faulty(share) if (share := given.pop("faults")) else lambda number: None,
        **(_CHAT_ONLY if given.pop("chat_only") else {}),
        **given,
    )
    with running(server):
        print(server.url, flush=True)
        # The parent's end, however it comes, closes this.
        while os.read(sys.stdin.fileno(), 4096):
            pass


if __name__ == "__main__":
    main()
