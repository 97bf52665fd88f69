"""The engine: one thread that owns the pipeline and decodes every unfinished request together.

Knows tokens, not HTTP: requests come in as ids and a Decoding, and come out as a Generation to iterate over.

Determinism, as measured with SmolLM2-135M: every request draws from a generator of its own, so a request that
runs alone gives the same text for the same prompt, parameters and seed, and a greedy text is the same however
it is batched. A sampled text can change with the size of the batch it shares, and once in a while with whether
its prompt was cached, because a sum rounds differently in another matrix shape: with float32 activations and
cache (`runtime.ENGINE_PROPERTIES`) 11 of 12 and 14 of 16 texts were the same alone and in a batch; with the
engine's default 8-bit cache 3 of 12 and none of 16. So a seed makes a text likely, not certain, to come again.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from selfinstruct_hub.errors import LocalEngineError
from selfinstruct_hub.local.grammar import Grammar
from selfinstruct_hub.local.runtime import ENGINE_PROPERTIES, one_line, openvino_genai
from selfinstruct_hub.local.vocabulary import TextDecoder, Vocabulary
from selfinstruct_hub.local.weights import Weights

# A step that fails breaks the pipeline for good; it is built anew, but not for ever.
REBUILDS = 3
# Long enough for the event loop to wake and hand out what a step brought (steps hold the interpreter's lock),
# short beside a step of 15 ms and more.
YIELD_SECONDS = 0.0005

FinishReason = Literal["length", "eos_token", "stop_sequence"]


@dataclass(frozen=True)
class Decoding:
    """How to decode one request. A `stop` text ends it when a token ends with it, and stays in the text."""

    max_new_tokens: int
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None


@dataclass(frozen=True)
class Token:
    id: int
    text: str
    logprob: float
    special: bool


@dataclass
class Load:
    """What the engine did so far; read by /metrics."""

    steps: int = 0
    batched: int = 0
    running: int = 0
    waiting: int = 0


class Generation:
    """One request's answer. Iterate for its tokens; afterwards `text`, `finish_reason` and the times are set.

    Iterating raises LocalEngineError when the engine fails. Times are of `time.monotonic`, in seconds.
    """

    def __init__(self, input_ids: list[int], decoding: Decoding, decoder: TextDecoder) -> None:
        self.input_ids = input_ids
        self.decoding = decoding
        self.tokens: list[Token] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.queued_at = time.monotonic()
        self.started_at = self.finished_at = self.queued_at
        self.cancelled = False
        self._decoder = decoder
        self._handle: Any = None
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Token | LocalEngineError | None] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[Token]:
        while (event := await self._events.get()) is not None:
            if isinstance(event, LocalEngineError):
                raise event
            yield event


class Engine:
    """Loads `weights` in its constructor (seconds); raises LocalEngineError when they cannot be loaded."""

    def __init__(self, weights: Weights, *, max_batch_size: int = 16, cache_gb: int = 2) -> None:
        self.weights = weights
        self.max_batch_size = max_batch_size
        self.max_total_tokens = weights.context
        self.max_input_tokens = weights.context - 1
        self.load = Load()
        self.failure: LocalEngineError | None = None
        self._cache_gb = cache_gb
        self._genai = openvino_genai()
        self._pipeline = self._build()
        self._base = self._pipeline.get_config()
        self.vocabulary = Vocabulary(self._pipeline.get_tokenizer())
        eos = int(self._base.eos_token_id)
        self._eos_token = eos if eos >= 0 else self.vocabulary.eos
        self._ends = {self._eos_token} | set(self._base.stop_token_ids)
        self._numbers = iter(range(2**62))
        self._rebuilds = 0
        self._wake = threading.Condition()
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []
        self._outbox: list[tuple[Generation, Token | LocalEngineError | None]] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, input_ids: list[int], decoding: Decoding) -> Generation:
        """Queues a request; must be called in a running event loop. Raises LocalEngineError when it is down."""
        generation = Generation(input_ids, decoding, self.vocabulary.decoder())
        with self._wake:
            if self.failure is not None:
                raise self.failure
            self._waiting.append(generation)
            self._wake.notify()
        return generation

    def cancel(self, generation: Generation) -> None:
        """Stops decoding a request nobody waits for any more. Harmless when it has finished."""
        with self._wake:
            generation.cancelled = True
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout=30)

    # Everything below runs in the engine's thread.

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                try:
                    self._pipeline.step()
                except Exception as error:  # pybind11 turns every C++ exception into RuntimeError and kin
                    self._rebuild(error)
                else:
                    self._collect()
                self._deliver()
                time.sleep(YIELD_SECONDS)
            self._drop_running()
            self._fail_all(LocalEngineError("the embedded engine is shutting down"))
        except BaseException as error:
            self._fail_all(LocalEngineError(f"the embedded engine stopped: {one_line(error)}"))
            raise
        finally:
            self._deliver()

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not (self._closing or self._waiting or self._running):
                self.load.running = 0
                self._wake.wait()
            if self._closing:
                return False
            for generation in [g for g in self._running if g.cancelled]:
                generation._handle.cancel()
                self._finish(generation)
            while self._waiting and len(self._running) < self.max_batch_size:
                generation = self._waiting.popleft()
                if not generation.cancelled:
                    self._admit(generation)
            self.load.running, self.load.waiting = len(self._running), len(self._waiting)
        return True

    def _admit(self, generation: Generation) -> None:
        generation.started_at = time.monotonic()
        try:
            generation._handle = self._pipeline.add_request(
                next(self._numbers), self._tensor(generation.input_ids), self._config(generation.decoding)
            )
        except Exception as error:  # as above; nothing of the request stays behind in the pipeline
            failure = LocalEngineError(f"the engine refuses the request: {one_line(error)}")
            self._outbox.append((generation, failure))
        else:
            self._running.append(generation)

    def _collect(self) -> None:
        self.load.steps += 1
        self.load.batched += len(self._running)
        for generation in list(self._running):
            handle = generation._handle
            while generation.finish_reason is None and handle.can_read():
                for output in handle.read().values():
                    for token, logprob in zip(output.generated_ids, output.generated_log_probs, strict=True):
                        self._take(generation, token, logprob)
            status = handle.get_status()
            if generation.finish_reason is not None:
                if status == self._genai.GenerationStatus.RUNNING:
                    handle.stop()
                self._finish(generation)
            elif status == self._genai.GenerationStatus.FINISHED:
                generation.finish_reason = "eos_token"  # a grammar came to its end
                self._finish(generation)
            elif status != self._genai.GenerationStatus.RUNNING:
                failure = LocalEngineError("the engine has no room for a text of this length")
                self._outbox.append((generation, failure))
                self._running.remove(generation)
        self._rebuilds = 0
        self.load.running = len(self._running)

    def _take(self, generation: Generation, token: int, logprob: float) -> None:
        if generation.finish_reason is not None:
            return
        special = token in self.vocabulary.special or token in self._ends
        text = self.vocabulary.name(token) if special else generation._decoder.push(token)
        generation.text += "" if special else text
        decoding = generation.decoding
        if len(generation.tokens) + 1 >= decoding.max_new_tokens:
            generation.finish_reason = "length"
        elif token in self._ends:
            generation.finish_reason = "eos_token"
        elif any(generation.text.endswith(stop) for stop in decoding.stop):
            generation.finish_reason = "stop_sequence"
        if generation.finish_reason is not None:
            rest = generation._decoder.flush()
            generation.text += rest
            text += "" if special else rest
        taken = Token(token, text, logprob, special)
        generation.tokens.append(taken)
        self._outbox.append((generation, taken))

    def _finish(self, generation: Generation) -> None:
        generation.finished_at = time.monotonic()
        self._outbox.append((generation, None))
        self._running.remove(generation)

    def _deliver(self) -> None:
        outbox, self._outbox = self._outbox, []
        for loop in {generation._loop for generation, _ in outbox}:
            events = [(g, event) for g, event in outbox if g._loop is loop]
            try:
                loop.call_soon_threadsafe(_put_all, events)
            except RuntimeError:  # that loop has been closed: nobody is left to tell
                continue

    def _rebuild(self, error: Exception) -> None:
        """A step that throws leaves the pipeline unusable, and every request in it lost."""
        failure = LocalEngineError(f"a decoding step failed: {one_line(error)}")
        for generation in list(self._running):
            self._outbox.append((generation, failure))
        self._running.clear()
        self._deliver()
        self._rebuilds += 1
        if self._rebuilds > REBUILDS:
            raise error
        self._pipeline = None
        self._pipeline = self._build()

    def _fail_all(self, failure: LocalEngineError) -> None:
        with self._wake:
            self.failure = failure
            for generation in [*self._running, *self._waiting]:
                self._outbox.append((generation, failure))
            self._running.clear()
            self._waiting.clear()
            self.load.running = self.load.waiting = 0

    def _drop_running(self) -> None:
        """Frees what unfinished requests hold; the engine complains on the console about what is left."""
        for generation in self._running:
            generation._handle.cancel()
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()

    def _build(self) -> Any:
        scheduler = self._genai.SchedulerConfig()
        scheduler.cache_size = self._cache_gb
        scheduler.max_num_seqs = self.max_batch_size
        scheduler.enable_prefix_caching = True
        path = str(self.weights.path)
        try:
            return self._genai.ContinuousBatchingPipeline(path, scheduler, "CPU", ENGINE_PROPERTIES)
        except Exception as error:  # as above
            raise LocalEngineError(f"cannot load {path}: {one_line(error)}") from error

    def _tensor(self, ids: list[int]) -> Any:
        import numpy
        import openvino

        return openvino.Tensor(numpy.array([ids], dtype=numpy.int64))

    def _config(self, decoding: Decoding) -> Any:
        config = self._genai.GenerationConfig()
        config.apply_chat_template = False
        config.set_eos_token_id(self._eos_token)
        config.stop_token_ids = self._ends
        config.max_new_tokens = decoding.max_new_tokens
        config.logprobs = 1
        config.repetition_penalty = decoding.repetition_penalty
        config.frequency_penalty = decoding.frequency_penalty
        config.presence_penalty = decoding.presence_penalty
        config.do_sample = decoding.do_sample
        if decoding.do_sample:
            config.temperature = decoding.temperature
            config.top_p = decoding.top_p
            if decoding.top_k is not None:
                config.top_k = decoding.top_k
            # The engine's generator looks at 32 bits only; seeds that differ above them must differ too.
            config.rng_seed = (decoding.seed ^ (decoding.seed >> 32)) & 0xFFFFFFFF
        if decoding.grammar is not None:
            keyword = "json_schema" if decoding.grammar.kind == "json" else "regex"
            config.structured_output_config = self._genai.StructuredOutputConfig(
                **{keyword: decoding.grammar.text}
            )
        return config


def _put_all(events: list[tuple[Generation, Token | LocalEngineError | None]]) -> None:
    for generation, event in events:
        generation._events.put_nowait(event)
