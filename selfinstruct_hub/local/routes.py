"""TGI's routes over the embedded engine.

Only wires `protocol`, `chat`, `grammar` and `engine` together; rules and shapes live there.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from aiohttp import web

from selfinstruct_hub import __version__
from selfinstruct_hub.errors import GrammarError, LocalEngineError
from selfinstruct_hub.local import answers, chat, protocol
from selfinstruct_hub.local.engine import Engine, Generation
from selfinstruct_hub.local.grammar import GrammarGuard
from selfinstruct_hub.local.metrics import Metrics
from selfinstruct_hub.local.protocol import GenerateBody, Limits, Parameters, PlainRefusal, Refusal

# The version of TGI whose protocol this is.
PROTOCOL_VERSION = "3.3.6-dev0"
DOCKER_LABEL = "selfinstruct-hub"
LARGEST_BODY = 2_000_000  # bytes, TGI's default
# Without an API key these are open on TGI too.
GUARDED = {"/", "/generate", "/generate_stream", "/tokenize", "/chat_tokenize", "/v1/chat/completions"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class TgiServer:
    """One engine behind TGI's protocol. `app` is what to run."""

    def __init__(
        self, engine: Engine, guard: GrammarGuard, *, api_key: str | None, max_concurrent_requests: int
    ) -> None:
        self._engine = engine
        self._guard = guard
        self._api_key = api_key
        self._places = max_concurrent_requests
        self._max_concurrent_requests = max_concurrent_requests
        self._limits = Limits(engine.max_input_tokens, engine.max_total_tokens)
        self._metrics = Metrics()
        self.app = web.Application(client_max_size=LARGEST_BODY, middlewares=[self._answer_errors])
        self.app.add_routes(
            [
                web.post("/generate", self.generate),
                web.post("/generate_stream", self.generate_stream),
                web.post("/", self.compatible),
                web.post("/tokenize", self.tokenize),
                web.post("/chat_tokenize", self.chat_tokenize),
                web.post("/v1/chat/completions", self.chat_completions),
                web.get("/", self.health),
                web.get("/health", self.health),
                web.get("/ping", self.health),
                web.get("/info", self.info),
                web.get("/metrics", self.metrics),
                web.get("/v1/models", self.models),
            ]
        )

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, GenerateBody)
        answer, generation = await self._complete(body)
        return _json(answer, headers=answers.headers(generation))

    async def compatible(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, GenerateBody)
        if body.parameters.return_full_text is None:
            body.parameters.return_full_text = True  # as the pipeline this route imitates
        if body.stream:
            return await self._stream(request, body)
        answer, generation = await self._complete(body)
        return _json([answer], headers=answers.headers(generation))

    async def generate_stream(self, request: web.Request) -> web.StreamResponse:
        return await self._stream(request, await _body(request, GenerateBody))

    async def tokenize(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, GenerateBody)
        if not body.inputs:
            raise protocol.invalid("`inputs` cannot be empty")
        return _json(self._pieces(body.inputs, add_special_tokens=body.add_special_tokens))

    async def chat_tokenize(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, protocol.ChatTokenizeBody)
        prompt = self._prompt(body.messages)
        return _json(
            {
                "tokenize_response": self._pieces(prompt, add_special_tokens=False),
                "templated_text": prompt,
            }
        )

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, chat.ChatBody)
        self._metrics.requests += 1
        model_id = self._engine.weights.model_id
        with_logprobs = bool(body.logprobs)

        async def begin() -> Generation:
            parameters = chat.parameters_of(body, model_id)
            return await self._begin(self._prompt(body.messages), parameters, False, stream=body.stream)

        if not body.stream:
            async with self._generation(begin) as generation:
                async for _ in generation:
                    pass
            self._metrics.finished(generation)
            answer = chat.completion(generation, model_id, PROTOCOL_VERSION, logprobs=with_logprobs)
            return _json(answer, headers=answers.headers(generation))

        async def events() -> AsyncGenerator[str, None]:
            async with self._generation(begin) as generation:
                index = 0
                async for taken in generation:
                    index += 1
                    ends = generation.finish_reason is not None and index == len(generation.tokens)
                    reason = chat.finish_reason(generation) if ends else None
                    yield _dump(
                        chat.chunk(taken, model_id, PROTOCOL_VERSION, finish_reason=reason, logprobs=with_logprobs)
                    )
                if body.stream_options is not None and body.stream_options.include_usage:
                    last = chat.chunk(
                        generation.tokens[-1], model_id, PROTOCOL_VERSION, finish_reason=None, logprobs=False
                    )
                    yield _dump({**last, "choices": [], "usage": chat.usage(generation)})
            self._metrics.finished(generation)
            yield "[DONE]"

        return await self._send_events(request, events(), "data: ")

    async def health(self, request: web.Request) -> web.StreamResponse:
        if self._engine.failure is not None:
            raise Refusal(503, "healthcheck", "unhealthy")
        return web.Response()

    async def info(self, request: web.Request) -> web.StreamResponse:
        return _json(
            {
                "model_id": self._engine.weights.model_id,
                "model_sha": None,
                "model_pipeline_tag": "text-generation",
                "max_concurrent_requests": self._max_concurrent_requests,
                "max_best_of": protocol.MAX_BEST_OF,
                "max_stop_sequences": protocol.MAX_STOP_SEQUENCES,
                "max_input_tokens": self._limits.max_input_tokens,
                "max_total_tokens": self._limits.max_total_tokens,
                "validation_workers": 1,
                "max_client_batch_size": 1,
                "router": "text-generation-router",
                "version": PROTOCOL_VERSION,
                "sha": __version__,
                "docker_label": DOCKER_LABEL,
            }
        )

    async def models(self, request: web.Request) -> web.StreamResponse:
        model_id = self._engine.weights.model_id
        entry = {"id": model_id, "object": "model", "created": 0, "owned_by": model_id}
        return _json({"object": "list", "data": [entry]})

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=self._metrics.page(self._engine.load))

    async def _complete(self, body: GenerateBody) -> tuple[dict[str, Any], Generation]:
        self._metrics.requests += 1
        async with self._generation(lambda: self._begin_body(body, stream=False)) as generation:
            async for _ in generation:
                pass
        self._metrics.finished(generation)
        return answers.response(generation, body.inputs, body.parameters), generation

    async def _stream(self, request: web.Request, body: GenerateBody) -> web.StreamResponse:
        self._metrics.requests += 1

        async def events() -> AsyncGenerator[str, None]:
            async with self._generation(lambda: self._begin_body(body, stream=True)) as generation:
                index = 0
                async for taken in generation:
                    index += 1
                    ends = generation.finish_reason is not None and index == len(generation.tokens)
                    yield _dump(
                        answers.stream_event(taken, index, generation, body.inputs, body.parameters, last=ends)
                    )
            self._metrics.finished(generation)

        return await self._send_events(request, events(), "data:")

    async def _send_events(
        self, request: web.Request, events: AsyncGenerator[str, None], prefix: str
    ) -> web.StreamResponse:
        """As TGI: the status is 200 before anything is known, and an error is one more event."""
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                "x-compute-type": "cpu+openvino",
            }
        )
        await response.prepare(request)
        # A client that hangs up shows as a failed write or as cancellation; either way there is nobody to tell,
        # and closing the events is what frees the engine.
        with suppress(ConnectionError):
            async with aclosing(events):
                try:
                    async for event in events:
                        await response.write(f"{prefix}{event}\n\n".encode())
                except Refusal as refusal:
                    self._metrics.failures[refusal.error_type] += 1
                    await response.write(f"{prefix}{_dump(refusal.body)}\n\n".encode())
            await response.write_eof()
        return response

    @asynccontextmanager
    async def _generation(self, begin: Callable[[], Awaitable[Generation]]) -> AsyncIterator[Generation]:
        """Takes a place, and frees place and engine however it ends: a client that hangs up included."""
        if self._places == 0:
            raise protocol.overloaded()
        self._places -= 1
        generation = None
        try:
            generation = await begin()
            yield generation
        except LocalEngineError as error:
            raise protocol.failed(error) from error
        finally:
            self._places += 1
            if generation is not None:
                self._engine.cancel(generation)

    async def _begin_body(self, body: GenerateBody, *, stream: bool) -> Generation:
        return await self._begin(body.inputs, body.parameters, body.add_special_tokens, stream=stream)

    async def _begin(
        self, inputs: str, parameters: Parameters, add_special_tokens: bool, *, stream: bool
    ) -> Generation:
        wanted = protocol.check_parameters(inputs, parameters, self._limits, stream=stream)
        ids = self._engine.vocabulary.encode(inputs, add_special_tokens=add_special_tokens)
        if wanted.truncate is not None:
            ids = ids[-wanted.truncate :]
        max_new_tokens = protocol.fit(len(ids), wanted.max_new_tokens, self._limits)
        if wanted.decoding.grammar is not None:
            try:
                await self._guard.check(wanted.decoding.grammar)
            except GrammarError as error:
                raise protocol.invalid(f"grammar is not valid: {error}") from error
        return self._engine.submit(ids, replace(wanted.decoding, max_new_tokens=max_new_tokens))

    def _prompt(self, messages: list[protocol.Message]) -> str:
        plain = chat.messages_of(messages)
        try:
            prompt = self._engine.vocabulary.render_chat(plain)
        except RuntimeError as error:
            raise Refusal(422, "template_error", f"Template error: {error}") from error
        return chat.continue_last(prompt, plain)

    def _pieces(self, text: str, *, add_special_tokens: bool) -> list[dict[str, Any]]:
        vocabulary = self._engine.vocabulary
        ids = vocabulary.encode(text, add_special_tokens=add_special_tokens)
        return [
            {"id": piece.id, "text": piece.text, "start": piece.start, "stop": piece.stop}
            for piece in vocabulary.pieces(text, ids)
        ]

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        guarded = self._api_key is not None and request.method == "POST" and request.path in GUARDED
        if guarded and request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return web.Response(status=401)
        try:
            return await handler(request)
        except Refusal as refusal:
            self._metrics.failures[refusal.error_type] += 1
            return _json(refusal.body, status=refusal.status)
        except PlainRefusal as refusal:
            return web.Response(status=refusal.status, text=str(refusal))


async def _body(request: web.Request, kind: type[protocol.Body]) -> protocol.Body:
    return protocol.parse_body(kind, request.content_type, await request.read())


def _dump(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _json(document: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        text=_dump(document), status=status, headers=headers, content_type="application/json", charset="utf-8"
    )
