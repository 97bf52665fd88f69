"""A server that speaks text-generation-inference's protocol over real HTTP, with scripted answers and faults.

It stands in for a GPU server: /info and /generate as TGI 3 answers them, its validation included where a test
relies on it; /v1/models and /v1/chat/completions in OpenAI's form; /chat_tokenize and /tokenize. Any route can be
switched off, so that what is left is vLLM, llama.cpp, or a proxy that hides all but one. It runs in a thread of
its own, so that clients in the test's process and in child processes reach it alike.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

# (prompt, parameters) -> (text, finish reason): must depend on nothing else, or runs are not repeatable.
Answer = Callable[[str, dict[str, Any]], tuple[str, str]]

WORDS = (
    "river lantern budget violin harbour recipe compiler glacier treaty orchard satellite pension library "
    "protein schedule mosaic tariff beehive novel fraction courtroom canoe vaccine garden sentence airport "
    "enzyme poem currency bicycle thunder archive"
).split()
VERBS = (
    "Describe Compare Summarise Rewrite List Explain Translate Outline Classify Calculate Invent Correct".split()
)


def write_tasks(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
    """Well-formed Alpaca items, some of them bad in a way that a filter names; the same for the same seed."""
    rng = random.Random(f"{prompt}/{parameters.get('seed')}")
    first = int(re.findall(r"(\d+)\. Instruction:$", prompt)[0])
    items = []
    for number in range(first, first + 4):
        words = rng.sample(WORDS, 8)
        instruction = f"{rng.choice(VERBS)} the {words[0]} and the {words[1]} for a {words[2]} {words[3]}."
        given = rng.choice(["<noinput>", "None", f"A {words[4]} beside a {words[5]}."])
        output = f"It is about {words[6]} and {words[7]}, number {rng.randrange(10**6)}."
        kind = rng.random()
        if kind < 0.1:
            instruction = "Do it."
        elif kind < 0.2:
            output = given = f"The {words[4]}."
        elif kind < 0.3:
            instruction = f"Describe the picture of a {words[0]} near the {words[1]}."
        label = "" if number == first else f"{number}. Instruction:"
        items.append(f"{label} {instruction}\n{number}. Input: {given}\n{number}. Output: {output}\n###\n")
    return "".join(items), "eos_token"


_LABELS = ("Positive", "Negative", "Mixed")
_HAN = (
    "山水花鸟云雨风雪春夏秋冬东西南北城乡路桥船车书画诗词医药学校工厂农田市场家庭朋友老师孩子历史地理数学物理化学"
    "音乐电影新闻法律经济环境能源交通旅行美食健康运动游戏科技网络语言文化节日天气植物动物海洋星空机器材料建筑服装"
)


def write_steps(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
    """Self-Instruct's steps in English and Chinese, told apart by how the prompt ends; some answers are bad in a
    way that a filter names. The same for the same prompt and seed."""
    rng = random.Random(f"{prompt}/{parameters.get('seed')}")
    chinese = "：" in prompt[-12:] or "任务" in prompt[:40]
    last = prompt.rsplit("\n", 1)[-1]
    if number := re.fullmatch(r"(\d+)\.", last):
        items = [_instruction(rng, chinese) for _ in range(4)]
        first = int(number[1])
        return " " + "\n".join([items[0], *(f"{first + i}. {items[i]}" for i in range(1, 4))]), "eos_token"
    if last in ("Classification:", "是否为分类任务："):
        is_classification = "Decide" in prompt.rsplit("\n", 2)[-2] or "判断" in prompt.rsplit("\n", 2)[-2]
        return (" 是" if is_classification else " 否") if chinese else (
            " Yes" if is_classification else " No"
        ), "eos_token"
    given, output, label = ("输入：", "输出：", "类别：") if chinese else ("Input:", "Output:", "Class label:")
    texts = [_sentence(rng, chinese) for _ in range(6)]
    if last in ("Class label:", "类别："):
        return f" {_LABELS[0]}\n{given} {texts[0]}\n{label} {_LABELS[1]}\n{given} {texts[1]}", "eos_token"
    kind = rng.random()
    if kind < 0.15:
        return f" {texts[0]}\n{output} {texts[0]}", "eos_token"  # the output repeats the input
    if kind < 0.3:
        return (
            f" {texts[0]}\n{output} {texts[1]}\n{'示例' if chinese else 'Example'} 2\n{given} {texts[2]}",
            "length",
        )
    if kind < 0.4:
        return " nothing that could be read", "length"
    return f" <noinput>\n{output} {texts[1]}", "eos_token"


def fine(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
    """Something short that goes on."""
    return " fine", "eos_token"


def write_anything(prompt: str, parameters: dict[str, Any]) -> tuple[str, str]:
    """The recipe's answer, whichever the prompt asks for."""
    return (write_tasks if prompt.endswith("Instruction:") else write_steps)(prompt, parameters)


def _instruction(rng: random.Random, chinese: bool) -> str:
    if chinese:
        return rng.choice(["请说明", "判断", "比较", "列出"]) + "".join(rng.sample(_HAN, 14)) + "。"
    if rng.random() < 0.1:
        return "Do it."
    words = rng.sample(WORDS, 5)
    verb = rng.choice([*VERBS, "Decide whether", "Decide whether"])
    return f"{verb} the {words[0]} and the {words[1]} for a {words[2]} {words[3]} {words[4]}."


def _sentence(rng: random.Random, chinese: bool) -> str:
    if chinese:
        return "".join(rng.sample(_HAN, 12)) + "。"
    return f"A {rng.choice(WORDS)} beside the {rng.choice(WORDS)}, number {rng.randrange(10**6)}."


GENERATE, CHAT, CHAT_TOKENIZE, TOKENIZE = "/generate", "/v1/chat/completions", "/chat_tokenize", "/tokenize"
INFO, MODELS = "/info", "/v1/models"
_FIRST_ID = 1  # of the token that begins a sequence


@dataclass
class Server:
    """A running server. `requests` holds the bodies of /generate in the order they came, `chats` those of the chat
    route, `received` path and headers of everything."""

    answer: Answer = write_tasks
    api_key: str | None = None
    delay: Callable[[int], float] = lambda number: 0.0
    # An answer waits for as long as this is true of its number. Where a test is about what happens meanwhile, no
    # delay is long enough on a busy machine.
    held: Callable[[int], bool] = lambda number: False
    # Called with the number of the request, from 0; a response instead of an answer, or None.
    fault: Callable[[int], web.StreamResponse | None] = lambda number: None
    info: dict[str, Any] = field(
        default_factory=lambda: {
            "model_id": "test/scripted",
            "model_sha": None,
            "max_concurrent_requests": 128,
            "max_best_of": 2,
            "max_stop_sequences": 4,
            "max_input_tokens": 8191,
            "max_total_tokens": 8192,
            "router": "text-generation-router",
            "version": "3.3.6-dev0",
            "sha": None,
            "docker_label": None,
        }
    )
    requests: list[dict[str, Any]] = field(default_factory=list)
    most_in_flight: int = 0
    url: str = ""
    chats: list[dict[str, Any]] = field(default_factory=list)
    received: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    off: frozenset[str] | set[str] = frozenset()  # routes that answer 404
    guarded: frozenset[str] | set[str] = frozenset({GENERATE, CHAT, CHAT_TOKENIZE, TOKENIZE})  # by `api_key`
    # The entries of /v1/models; None: text-generation-inference's one. With entries, other models are refused.
    models: list[dict[str, Any]] | None = None
    # What the model's chat template puts before and behind the user's message; None: a base model, without one.
    template: tuple[str, str] | None = None
    beginning: str = ""  # the text of the token that begins every sequence, where the model has one
    other_routes: dict[str, Any] = field(default_factory=dict)  # path to what a GET is answered, as JSON
    _in_flight: int = 0

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._gate])
        app.router.add_get(INFO, self._info)
        app.router.add_get(MODELS, self._models)
        app.router.add_post(GENERATE, self._generate)
        app.router.add_post(CHAT, self._chat)
        app.router.add_post(CHAT_TOKENIZE, self._chat_tokenize)
        app.router.add_post(TOKENIZE, self._tokenize)
        for path in self.other_routes:
            app.router.add_get(path, self._other_route)
        return app

    @web.middleware
    async def _gate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.received.append((request.path, dict(request.headers)))
        if request.path in self.off:
            return web.Response(status=404)
        wants_key = self.api_key is not None and request.path in self.guarded
        if wants_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.Response(status=401)
        return await handler(request)

    async def _info(self, request: web.Request) -> web.Response:
        return web.json_response(self.info)

    async def _other_route(self, request: web.Request) -> web.Response:
        return web.json_response(self.other_routes[request.path])

    async def _models(self, request: web.Request) -> web.Response:
        model = self.info.get("model_id")
        own = [{"id": model, "object": "model", "created": 0, "owned_by": model}]
        return web.json_response({"object": "list", "data": own if self.models is None else self.models})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        number = len(self.chats)
        self.chats.append(body)
        if self.models is not None and body.get("model") not in [entry["id"] for entry in self.models]:
            error = {"message": f"The model `{body.get('model')}` does not exist.", "type": "NotFoundError"}
            return web.json_response({"error": error}, status=404)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await self._pause(number)
            if (response := self.fault(number)) is not None:
                return response
            prompt = body["messages"][-1]["content"]
            text, reason = self.answer(prompt, {**body, "max_new_tokens": body.get("max_tokens")})
        finally:
            self._in_flight -= 1
        ends = [at for stop in body.get("stop") or () if (at := text.find(stop)) >= 0]
        if ends:  # these servers leave the stop out
            text, reason = text[: min(ends)], "stop_sequence"
        used = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "length" if reason == "length" else "stop",
            "logprobs": None,
        }
        return web.json_response(
            {
                "object": "chat.completion",
                "id": f"chat-{number}",
                "created": 0,
                "model": self.info.get("model_id"),
                "system_fingerprint": "scripted",
                "choices": [choice],
                "usage": {**used, "total_tokens": sum(used.values())},
            }
        )

    async def _pause(self, number: int) -> None:
        await asyncio.sleep(self.delay(number))
        while self.held(number):  # noqa: ASYNC110  # what it waits for happens in other threads
            await asyncio.sleep(0.002)

    async def _chat_tokenize(self, request: web.Request) -> web.Response:
        messages = (await request.json())["messages"]
        if self.template is None:
            error = {"error": "Template error: template not found", "error_type": "template_error"}
            return web.json_response(error, status=422)
        before, behind = self.template
        text = before + messages[-1]["content"] + behind
        return web.json_response({"tokenize_response": self._tokens(text), "templated_text": text})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        first = [{"id": _FIRST_ID, "text": "", "start": 0, "stop": 0}] if self.beginning else []
        return web.json_response(first + self._tokens(body["inputs"]))

    def _tokens(self, text: str) -> list[dict[str, Any]]:
        """The text's words and what is between them as tokens, and its beginning where it has the model's."""
        tokens = []
        start = 0
        if self.beginning and text.startswith(self.beginning):
            start = len(self.beginning)
            tokens = [{"id": _FIRST_ID, "text": self.beginning, "start": 0, "stop": start}]
        for word in re.finditer(r"\w+|\W+", text[start:]):
            ends = {"start": start + word.start(), "stop": start + word.end()}
            tokens.append({"id": 100 + len(tokens), "text": word[0], **ends})
        return tokens

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        number = len(self.requests)
        self.requests.append(body)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await self._pause(number)
            if (response := self.fault(number)) is not None:
                return response
            text, reason = self.answer(body["inputs"], body["parameters"])
        finally:
            self._in_flight -= 1
        tokens = len(text.split())
        return web.json_response(
            {
                "generated_text": text,
                "details": {
                    "finish_reason": reason,
                    "generated_tokens": tokens,
                    "seed": body["parameters"].get("seed"),
                    "prefill": [],
                    "tokens": [],
                },
            },
            headers={
                "x-prompt-tokens": str(len(body["inputs"].split())),
                "x-generated-tokens": str(tokens),
                "x-queue-time": "1",
                "x-inference-time": "20",
                "x-total-time": "21",
            },
        )


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """`server` on a free port of loopback until the block ends."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    runner: web.AppRunner | None = None

    async def start() -> None:
        nonlocal runner
        runner = web.AppRunner(server.app(), shutdown_timeout=0.1)  # hanging answers are part of the tests
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.url = f"http://{host}:{port}"
        ready.set()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(10), "the server did not start"
    try:
        yield server
    finally:
        assert runner is not None
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
