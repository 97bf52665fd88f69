"""OpenAI's chat completions, one try at a time: text-generation-inference's Messages API, vLLM, SGLang, llama.cpp,
Inference Endpoints and Providers.

The requests are those of `huggingface_hub.AsyncInferenceClient`. It opens a session and a connection for every
call and adds the Hub's token that is saved on this machine, whoever the server is; so it gets its session from
here: pooled, with the key that belongs to the address or none, and with our words for what goes wrong.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
from huggingface_hub import AsyncInferenceClient

from selfinstruct_hub.endpoint import Limits, failures
from selfinstruct_hub.endpoint.detect import LLAMA_CPP, MOST_STOPS, OPENAI, SGLANG, TGI, VLLM
from selfinstruct_hub.endpoint.tgi import SECONDS_PER_TOKEN, cut_at_stop
from selfinstruct_hub.errors import EndpointRefusedError
from selfinstruct_hub.records import FINISH_EOS, FINISH_LENGTH, FINISH_STOP, Completion, Decoding

# A filter cuts a text off like a limit does. `tool_calls` and whatever else there is ends it.
_FINISH_REASONS = {"length": FINISH_LENGTH, "content_filter": FINISH_LENGTH, "stop_sequence": FINISH_STOP}
# What sampling parameters outside OpenAI's protocol are called.
_EXTRA_NAMES = {LLAMA_CPP: {"repetition_penalty": "repeat_penalty"}}


class OpenAIServer:
    """An OpenAI-compatible server; `url` is its address up to and without /chat/completions. Call from one event
    loop; `session` is closed with it, and carries the key."""

    kind = OPENAI
    chat = True

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        model: str,
        timeout: float,
        name: str | None = None,
        asked_as: str | None = None,
        version: str = "",
        limits: Limits | None = None,
        dialect: str = "",
        embedded: bool = False,
        secrets: failures.Secrets | None = None,
    ) -> None:
        """`timeout` is the seconds that a try may take, plus 0.2 for every token that it may generate; `asked_as`
        is the model's name in requests; `dialect` is the server that it is, as in detect.Found."""
        self._session = session
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._timeout = timeout
        self._asked_as = asked_as or model
        self._dialect = dialect
        self._secrets = secrets or failures.Secrets(())
        self.name = name or failures.shown(url)
        self.model = model
        self.version = version
        self.embedded = embedded
        self.limits = limits or Limits(max_stop_sequences=MOST_STOPS)

    async def close(self) -> None:
        await self._session.close()

    async def send(self, prompt: str, decoding: Decoding) -> Completion:
        """One chat completion, with `prompt` as the user's message, tried once."""
        parameters = self.parameters(decoding)
        patience = self._timeout + SECONDS_PER_TOKEN * decoding.max_new_tokens
        exchange = _Exchange(self._session, patience, self.name, self._secrets)
        client = _Client(exchange, self._url)
        started = time.monotonic()
        try:
            answer = await client.chat_completion(
                [{"role": "user", "content": prompt}], model=self._asked_as, **parameters
            )
        # TimeoutError first: the client's own is an OSError too.
        except (asyncio.TimeoutError, TimeoutError):
            raise failures.no_answer(patience) from None
        except (aiohttp.ClientError, OSError) as error:
            raise failures.no_connection(error) from None
        # It could not read the answer, whose bytes are in the exchange.
        except (ValueError, TypeError, RecursionError):
            raise failures.bad_answer(_what_is_wrong(exchange.content)) from None
        return self._completion(answer, exchange.headers, decoding, time.monotonic() - started)

    def parameters(self, decoding: Decoding) -> dict[str, Any]:
        """The request but for its messages and model. Raises EndpointRefusedError for what this server cannot be
        told. Greedy is temperature 0, which text-generation-inference's Messages API takes for it too; there is
        never a presence penalty, which that API makes something else of."""
        extra = {name: getattr(decoding, name) for name in ("top_k", "repetition_penalty")}
        extra = {name: value for name, value in extra.items() if value is not None}
        if extra and self._dialect == TGI:
            raise self._refused(f"takes no {' and no '.join(extra)} in chat", "set `api: tgi`, or leave it out")
        extra = {_EXTRA_NAMES.get(self._dialect, {}).get(name, name): value for name, value in extra.items()}
        values: dict[str, Any] = {
            "max_tokens": decoding.max_new_tokens,
            "temperature": 0.0 if decoding.greedy else decoding.temperature,
            # 1.0 means all, and text-generation-inference refuses to be told.
            "top_p": None if decoding.top_p == 1.0 else decoding.top_p,
            "frequency_penalty": decoding.frequency_penalty,
            "seed": decoding.seed,
            "stop": list(decoding.stop[: self.limits.max_stop_sequences or MOST_STOPS]) or None,
        }
        if decoding.grammar is not None:
            response_format, more = self._grammar(*decoding.grammar)
            values["response_format"] = response_format
            extra |= more
        values["extra_body"] = extra or None
        return {name: value for name, value in values.items() if value is not None}

    def _grammar(self, kind: str, value: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """How this server is held to a grammar: `response_format`, and parameters outside OpenAI's protocol, which
        knows no regular expressions."""
        wanted = json.loads(value) if kind == "json" else value
        if self._dialect == TGI:
            return {"type": kind, "value": wanted}, {}
        if self._dialect == VLLM:
            return None, {"structured_outputs": {kind: wanted}}
        if self._dialect == SGLANG and kind == "regex":
            return None, {"regex": wanted}
        raise self._refused(f"cannot be held to a {kind} grammar", "set `grammar: off`")

    def _refused(self, what: str, mend: str) -> EndpointRefusedError:
        return EndpointRefusedError(f"{self.name} {what}; {mend}", said=f"the endpoint {what}")

    def _completion(
        self, answer: Any, headers: Mapping[str, str], decoding: Decoding, seconds: float
    ) -> Completion:
        # Any field of any answer may be missing, or be something else.
        choices = answer.choices
        choice = choices[0] if isinstance(choices, list) and choices else None
        if choice is None:
            raise failures.bad_answer("an answer without choices")
        content = getattr(getattr(choice, "message", None), "content", None)
        reason = getattr(choice, "finish_reason", None)
        reason = reason if isinstance(reason, str) else ""
        if not isinstance(content, str):
            why = f" (finish_reason {self._secrets.hide(reason)[:40]})" if reason else ""
            raise failures.bad_answer(f"an answer without content{why}")
        text, stopped = cut_at_stop(failures.storable(content), decoding.stop)
        finish = _FINISH_REASONS.get(reason, FINISH_EOS)
        # vLLM says which stop sequence it was; the others say "stop" for the model's own end too.
        stopped = stopped or (finish == FINISH_EOS and isinstance(getattr(choice, "stop_reason", None), str))
        return Completion(
            text=text,
            finish_reason=FINISH_STOP if stopped else finish,
            prompt_tokens=_count(getattr(answer.usage, "prompt_tokens", None)),
            generated_tokens=_count(getattr(answer.usage, "completion_tokens", None)),
            model=self.model,
            endpoint_kind=self.kind,
            queue_time=_milliseconds(headers.get("x-queue-time")),
            inference_time=_milliseconds(headers.get("x-inference-time")),
            total_time=round(seconds, 3),
        )


class _Exchange:
    """Stands for the session that the client would open: one request over the pooled one. Remembers what came."""

    def __init__(
        self, session: aiohttp.ClientSession, patience: float, name: str, secrets: failures.Secrets
    ) -> None:
        self._session = session
        self._patience = patience
        self._name = name
        self._secrets = secrets
        self.headers: Mapping[str, str] = {}
        self.content = b""

    async def post(self, url: str, *, json: Any, data: Any, proxy: Any) -> aiohttp.ClientResponse:
        """The answer, read. Raises TransientError or EndpointError for another status than 200: the client would
        keep of it only what is JSON."""
        del data, proxy  # for uploads and proxies; there are none
        timeout = aiohttp.ClientTimeout(total=self._patience)
        # Not in a block of its own: the client reads a second time, which aiohttp allows until it is closed. What
        # is read to its end, or fails on the way, gives its connection back by itself.
        response = await self._session.post(
            url,
            json=json,
            timeout=timeout,
            allow_redirects=False,  # would turn it into a GET
        )
        self.content = await response.read()
        self.headers = response.headers
        if response.status != 200:
            raise failures.refusal(self._name, response.status, self.headers, self.content, self._secrets)
        return response

    async def close(self) -> None:
        """The session is the server's."""


class _Client(AsyncInferenceClient):
    """The Hub's client with a session of ours. Its headers are left out: without a key it would look one up on
    this machine, and send the Hub's token to whoever it is."""

    def __init__(self, exchange: _Exchange, url: str) -> None:
        super().__init__(base_url=url, api_key="never sent, and so never looked up")
        self._exchange = exchange

    def _get_client_session(self, headers: Any = None) -> Any:
        return self._exchange


def _what_is_wrong(content: bytes) -> str:
    if not content.strip():
        return "an empty answer"
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return "an answer that is cut off or not JSON"
    return "an answer that is no chat completion"


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _milliseconds(value: str | None) -> float | None:
    return int(value) / 1000 if value and value.isascii() and value.isdigit() else None
