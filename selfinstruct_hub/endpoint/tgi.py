"""text-generation-inference's native protocol over one pooled session: /info once, then /generate.

Request, parameter and error types are those of the `text-generation` package. Its transport is not used: it
opens a connection per call and turns proxies' pages into JSON errors.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from pydantic import ValidationError as ShapeError
from text_generation.errors import ValidationError, parse_error
from text_generation.types import Grammar, Parameters, Request, Response

from selfinstruct_hub.endpoint import Limits
from selfinstruct_hub.errors import (
    EndpointAuthError,
    EndpointProtocolError,
    EndpointRefusedError,
    EndpointUnreachableError,
)
from selfinstruct_hub.records import FINISH_EOS, FINISH_LENGTH, FINISH_STOP, Completion, Decoding

KIND = "tgi"
# `serve` names itself here, so that a client can tell the embedded engine from a GPU server.
EMBEDDED_LABEL = "selfinstruct-hub"

_FINISH_REASONS = {
    "length": FINISH_LENGTH,
    "eos_token": FINISH_EOS,
    "stop_sequence": FINISH_STOP,
}
_TRANSIENT = frozenset({408, 424, 429, 500, 502, 503, 504})
_INFO_TIMEOUT = 10.0
_SECONDS_PER_TOKEN = 0.2
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


class TGIEndpoint:
    """A text-generation-inference server. Made by `connect`; call from one event loop."""

    kind = KIND

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        info: dict[str, Any],
        *,
        attempts: int,
        timeout: float,
    ) -> None:
        self._session = session
        self._url = url
        self._attempts = attempts
        self._timeout = timeout
        self.model: str = info["model_id"]
        self.version: str = str(info.get("version", ""))
        self.embedded: bool = info.get("docker_label") == EMBEDDED_LABEL
        self.limits = Limits(
            max_total_tokens=_number(info, "max_total_tokens"),
            max_input_tokens=_number(info, "max_input_tokens"),
            max_concurrent_requests=_number(info, "max_concurrent_requests"),
            max_stop_sequences=_number(info, "max_stop_sequences"),
        )

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        attempts: int = 6,
        timeout: float = 120.0,
    ) -> TGIEndpoint:
        """Asks `url` who it is. `timeout` is seconds a request may take before its first token is counted.

        Raises EndpointUnreachableError, EndpointProtocolError (not TGI) or EndpointRefusedError (another model
        than `model`), each with what to do.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        session = aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0))
        try:
            info = await _info(session, url, attempts)
            if model is not None and model != info["model_id"]:
                raise EndpointRefusedError(
                    f"{shown(url)} serves {info['model_id']}, not {model}; change --model or the endpoint"
                )
            return cls(session, url.rstrip("/"), info, attempts=attempts, timeout=timeout)
        except BaseException:
            await session.close()
            raise

    async def close(self) -> None:
        await self._session.close()

    async def complete(self, prompt: str, decoding: Decoding) -> Completion:
        """One completion from /generate. Transient failures are tried again, `attempts` times in all, with
        exponential back-off and jitter (Retry-After is honoured); everything else raises at once."""
        try:
            body = request_body(prompt, decoding)
        except ValidationError as error:  # the protocol's own rules, checked before anything is sent
            raise EndpointRefusedError(
                f"the request breaks the endpoint's rules: {error}", said=str(error)
            ) from None
        patience = self._timeout + _SECONDS_PER_TOKEN * decoding.max_new_tokens
        failure = ""
        for attempt in range(1, self._attempts + 1):
            started = time.monotonic()
            pause: float | None = None
            try:
                async with self._session.post(
                    f"{self._url}/generate", json=body, timeout=aiohttp.ClientTimeout(total=patience)
                ) as answer:
                    content = await answer.read()
                    if answer.status == 200:
                        completion = self._completion(answer, content, decoding, started)
                        if completion is not None:
                            return completion
                        failure = "an answer that is cut off or not JSON"
                    else:
                        failure = self._refusal(answer.status, answer.headers, content)
                        pause = _retry_after(answer.headers.get("Retry-After"))
            except asyncio.TimeoutError:
                failure = f"no answer within {patience:.0f} s"
            except aiohttp.ClientError as error:
                failure = f"the connection failed ({_reason(error)})"
            if attempt < self._attempts:
                await asyncio.sleep(_backoff(attempt) if pause is None else pause)
        raise EndpointUnreachableError(
            f"{shown(self._url)} failed {self._attempts} times in a row, last with {failure}; "
            "what was answered is kept: start the same command again when the endpoint is well"
        )

    def _completion(
        self, answer: aiohttp.ClientResponse, content: bytes, decoding: Decoding, started: float
    ) -> Completion | None:
        """The answer as a Completion; None where it is torn, which trying again may mend."""
        try:
            response = Response.model_validate_json(content)
        except ShapeError:
            try:
                json.loads(content)
            except ValueError:
                return None
            raise EndpointProtocolError(
                f"{shown(self._url)} answers /generate in a form that is not text-generation-inference's "
                "(generated_text with details)"
            ) from None
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
            total_time=round(time.monotonic() - started, 3),
        )

    def _refusal(self, status: int, headers: Any, content: bytes) -> str:
        """What a failed answer says, if trying again may help. Raises what no second try can mend."""
        said = _error_text(status, content)
        if status in (401, 403):
            raise EndpointAuthError(
                f"{shown(self._url)} refuses the request ({status}{said}); set SELFINSTRUCT_API_KEY to a key "
                "that it takes"
            )
        if status not in _TRANSIENT:
            raise EndpointRefusedError(
                f"{shown(self._url)} refuses the request ({status}{said})", said=f"{status}{said}"
            )
        return f"HTTP {status}{said}"


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


def shown(url: str) -> str:
    """`url` for a message: without credentials, query and fragment, which may hold secrets."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))


async def _info(session: aiohttp.ClientSession, url: str, attempts: int) -> dict[str, Any]:
    place = shown(url)
    for attempt in range(1, attempts + 1):
        try:
            async with session.get(
                f"{url.rstrip('/')}/info", timeout=aiohttp.ClientTimeout(total=_INFO_TIMEOUT)
            ) as answer:
                content = await answer.read()
                status = answer.status
        except asyncio.TimeoutError:
            raise EndpointUnreachableError(
                f"{place} does not answer within {_INFO_TIMEOUT:.0f} s; is the server up, and is this its address?"
            ) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise EndpointUnreachableError(
                f"{place} cannot be reached ({_reason(error)}); start the server, or leave --endpoint out to use "
                "the embedded engine"
            ) from None
        if status not in _TRANSIENT:
            break
        if attempt == attempts:
            raise EndpointUnreachableError(
                f"{place} is not ready (HTTP {status}{_error_text(status, content)}); wait until it has loaded "
                "its model and start again"
            )
        await asyncio.sleep(_backoff(attempt))
    if status in (401, 403):
        raise EndpointAuthError(f"{place} wants a key ({status}); set SELFINSTRUCT_API_KEY in the environment")
    try:
        info = json.loads(content) if status == 200 else None
    except ValueError:
        info = None
    if not isinstance(info, dict) or not isinstance(info.get("model_id"), str):
        raise EndpointProtocolError(
            f"{place} is not text-generation-inference: GET /info answered {status} without a model_id"
            f"{_error_text(status, content) if status != 200 else ''}; check the address"
        )
    return info


def _error_text(status: int, content: bytes) -> str:
    """The server's own words, on one line, if it has any that a person can read."""
    text = content.decode("utf-8", "replace").strip()
    try:
        payload = json.loads(text)
    except ValueError:
        payload = None
    if isinstance(payload, dict) and isinstance(payload.get("error"), str):
        words = str(parse_error(status, payload))
    elif not text or text.startswith("<"):  # a proxy's page
        return ""
    else:
        words = text
    return ": " + " ".join(words.split())[:300]


def _reason(error: Exception) -> str:
    os_error = getattr(error, "os_error", None)
    if os_error is not None and os_error.strerror:
        return str(os_error.strerror)
    return " ".join(str(error).split()) or type(error).__name__


def _backoff(attempt: int) -> float:
    """Seconds to wait after the failed try number `attempt`, from 1: exponential, with jitter."""
    pause: float = _FIRST_PAUSE * 2 ** (attempt - 1)
    return min(_LONGEST_PAUSE, pause) * random.uniform(0.5, 1.5)


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for (the date form is treated as absent)."""
    try:
        return min(float(value), 300.0) if value is not None and float(value) >= 0 else None
    except ValueError:
        return None


def _number(info: dict[str, Any], key: str) -> int | None:
    value = info.get(key)
    return value if isinstance(value, int) and value > 0 else None


def _header(answer: aiohttp.ClientResponse, name: str) -> int | None:
    value = answer.headers.get(name, "")
    return int(value) if value.isdigit() else None


def _seconds(answer: aiohttp.ClientResponse, name: str) -> float | None:
    value = _header(answer, name)
    return None if value is None else value / 1000
