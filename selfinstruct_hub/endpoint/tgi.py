"""text-generation-inference's native protocol: one try of /generate over a pooled session.

Request and parameter types are those of the `text-generation` package. Its transport is not used: it opens a
connection per call and turns proxies' pages into JSON errors.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
from pydantic import ValidationError as ShapeError
from text_generation.errors import ValidationError
from text_generation.types import Grammar, Parameters, Request, Response

from selfinstruct_hub.endpoint import Limits, failures
from selfinstruct_hub.endpoint.template import ChatTemplate
from selfinstruct_hub.errors import EndpointRefusedError
from selfinstruct_hub.records import FINISH_EOS, FINISH_LENGTH, FINISH_STOP, Completion, Decoding

KIND = "tgi"
# `serve` names itself here, so that a client can tell the embedded engine from a GPU server.
EMBEDDED_LABEL = "selfinstruct-hub"

_FINISH_REASONS = {
    "length": FINISH_LENGTH,
    "eos_token": FINISH_EOS,
    "stop_sequence": FINISH_STOP,
}
SECONDS_PER_TOKEN = 0.2


class TGIServer:
    """A text-generation-inference server at `url`. `info` is what GET /info answered, empty where a proxy hides
    it; then `model` names what it serves. Call from one event loop; `session` is closed with it."""

    kind = KIND

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        info: dict[str, Any],
        *,
        timeout: float,
        model: str = "unknown",
        template: ChatTemplate | None = None,
        secrets: failures.Secrets | None = None,
    ) -> None:
        """`timeout` is the seconds that a try may take, plus 0.2 for every token that it may generate."""
        self._session = session
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._template = template
        self._secrets = secrets or failures.Secrets(())
        self.name = failures.shown(url)
        self.model: str = self._secrets.hide(info.get("model_id", model))
        self.version: str = self._secrets.hide(str(info.get("version", "")))
        self.embedded: bool = info.get("docker_label") == EMBEDDED_LABEL
        self.chat = template is not None
        self.limits = Limits(
            max_total_tokens=_number(info, "max_total_tokens"),
            max_input_tokens=_number(info, "max_input_tokens"),
            max_concurrent_requests=_number(info, "max_concurrent_requests"),
            max_stop_sequences=_number(info, "max_stop_sequences"),
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(self, prompt: str, decoding: Decoding) -> Completion:
        """One completion from /generate, tried once."""
        try:
            body = request_body(self._template.wrap(prompt) if self._template else prompt, decoding)
        except ValidationError as error:  # the protocol's own rules, checked before anything is sent
            raise EndpointRefusedError(
                f"the request breaks the endpoint's rules: {error}", said=str(error)
            ) from None
        patience = self._timeout + SECONDS_PER_TOKEN * decoding.max_new_tokens
        started = time.monotonic()
        try:
            async with self._session.post(
                f"{self._url}/generate",
                json=body,
                timeout=aiohttp.ClientTimeout(total=patience),
                allow_redirects=False,  # would turn it into a GET
            ) as answer:
                content = await answer.read()
        except asyncio.TimeoutError:
            raise failures.no_answer(patience) from None
        except (aiohttp.ClientError, OSError) as error:
            raise failures.no_connection(error) from None
        if answer.status != 200:
            raise failures.refusal(self.name, answer.status, answer.headers, content, self._secrets)
        return self._completion(answer, content, decoding, time.monotonic() - started)

    def _completion(
        self, answer: aiohttp.ClientResponse, content: bytes, decoding: Decoding, seconds: float
    ) -> Completion:
        try:
            response = Response.model_validate_json(content)
        except ShapeError:
            raise failures.bad_answer(_what_is_wrong(content)) from None
        details = response.details
        text, stopped = cut_at_stop(response.generated_text, decoding.stop)
        return Completion(
            text=text,
            finish_reason=FINISH_STOP if stopped else _FINISH_REASONS[details.finish_reason.value],
            prompt_tokens=_header(answer, "x-prompt-tokens"),
            generated_tokens=details.generated_tokens,
            model=self.model,
            endpoint_kind=self.kind,
            queue_time=_seconds(answer, "x-queue-time"),
            inference_time=_seconds(answer, "x-inference-time"),
            total_time=round(seconds, 3),
        )


def request_body(prompt: str, decoding: Decoding) -> dict[str, Any]:
    """The JSON of a /generate request. Parameters that are None are left out: on TGI, top_p 1.0 is an error,
    and any sampling parameter turns sampling on even with do_sample false."""
    grammar = None
    if decoding.grammar:
        kind, value = decoding.grammar
        grammar = Grammar(type=kind, value=json.loads(value) if kind == "json" else value)
    parameters = Parameters(
        do_sample=not decoding.greedy,
        max_new_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        top_k=decoding.top_k,
        repetition_penalty=decoding.repetition_penalty,
        frequency_penalty=decoding.frequency_penalty,
        stop=list(decoding.stop),
        seed=decoding.seed,
        grammar=grammar,
        details=True,  # without it there is no finish_reason
    )
    request = Request(inputs=prompt, parameters=parameters)
    body: dict[str, Any] = request.model_dump(mode="json", exclude_none=True, exclude={"stream"})
    return body


def cut_at_stop(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """`text` up to the earliest stop sequence, and whether there was one. TGI leaves the stop in the text, and
    notices it only at the end of a token, so more may follow it."""
    found = [position for sequence in stop if (position := text.find(sequence)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def _what_is_wrong(content: bytes) -> str:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return "an answer that is cut off or not JSON" if content.strip() else "an empty answer"
    return "an answer that is not text-generation-inference's (generated_text with details)"


def _number(info: dict[str, Any], key: str) -> int | None:
    value = info.get(key)
    return value if isinstance(value, int) and value > 0 else None


def _header(answer: aiohttp.ClientResponse, name: str) -> int | None:
    value = answer.headers.get(name, "")
    return int(value) if value.isascii() and value.isdigit() else None


def _seconds(answer: aiohttp.ClientResponse, name: str) -> float | None:
    value = _header(answer, name)
    return None if value is None else value / 1000
