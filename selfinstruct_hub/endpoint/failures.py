"""What a failed try means: which failures are transient, what the server said, how long to wait. No I/O."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from selfinstruct_hub.endpoint import TransientError
from selfinstruct_hub.errors import EndpointAuthError, EndpointRefusedError
from selfinstruct_hub.records import BAD_ANSWER, CONNECTION, OVERLOADED, SERVER_ERROR, TIMEOUT

TRANSIENT_STATUSES = frozenset({408, 424, 425, 429, 500, 502, 503, 504})
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
# How aiohttp and the system write one: "('127.0.0.1', 9)", "host gpu:8080 ssl:default".
_ADDRESS = re.compile(r"\(['\"][^)]*\)|\bhost \S+|\bssl:\S+")
_LONGEST_ASKED = 300.0  # seconds of Retry-After that are honoured


def storable(text: str) -> str:
    """`text` with half a character, which JSON may hold and UTF-8 may not, as a question mark."""
    return text.encode("utf-8", "replace").decode()


class Secrets:
    """Keys that must never be shown; `hide` takes them out of a server's words."""

    def __init__(self, keys: Iterable[str | None]) -> None:
        # Longest first, so that no part of one is left by another.
        self._keys = sorted({key for key in keys if key}, key=len, reverse=True)

    def hide(self, text: str) -> str:
        for key in self._keys:
            text = text.replace(key, "***")
        return storable(text)


def refusal(
    name: str, status: int, headers: Mapping[str, str], content: bytes, secrets: Secrets
) -> TransientError:
    """What an answer with another status than 200 means. Returns the failure that another try may mend; raises
    EndpointAuthError or EndpointRefusedError for what no second try can."""
    said = secrets.hide(words(content))
    known = f"{status}: {said}" if said else str(status)
    if status in (401, 403):
        raise EndpointAuthError(
            f"{name} refuses the request ({known}); set SELFINSTRUCT_API_KEY to a key that it takes"
        )
    if 300 <= status < 400:
        place = shown(headers.get("Location", "")) or "another address"
        raise EndpointRefusedError(f"{name} redirects to {place}; give that address", said=known)
    if status not in TRANSIENT_STATUSES:
        raise EndpointRefusedError(f"{name} refuses the request ({known})", said=known)
    reason = OVERLOADED if status == 429 else TIMEOUT if status in (408, 504) else SERVER_ERROR
    return TransientError(reason, f"HTTP {known}", retry_after=retry_after(headers.get("Retry-After")))


def bad_answer(said: str) -> TransientError:
    """An answer that came with 200 and is torn, empty, a proxy's page, or in another form."""
    return TransientError(BAD_ANSWER, said)


def no_answer(seconds: float) -> TransientError:
    return TransientError(TIMEOUT, f"no answer within {seconds:.0f} s")


def no_connection(error: Exception) -> TransientError:
    """A connection that was refused or cut, in words without the address."""
    found = getattr(error, "os_error", error)
    number = getattr(found, "errno", None)
    if isinstance(number, int) and number > 0:
        return TransientError(CONNECTION, os.strerror(number))
    text = getattr(found, "strerror", None) or str(error)
    text = " ".join(_ADDRESS.sub("", text).split())
    return TransientError(CONNECTION, text or type(error).__name__)


def words(content: bytes) -> str:
    """The server's own words, on one line, if it has any that a person can read: text-generation-inference's
    {"error"}, OpenAI's {"error": {"message"}} and {"message"}, FastAPI's {"detail"}, or plain text."""
    text = content.decode("utf-8", "replace").strip()
    try:
        payload: Any = json.loads(text)
    except (ValueError, RecursionError):
        payload = None
    if isinstance(payload, dict):
        for key in ("error", "message", "detail"):
            found = payload.get(key)
            if isinstance(found, dict):
                found = found.get("message")
            if isinstance(found, str) and found.strip():
                text = found
                break
            if found:
                text = json.dumps(found, ensure_ascii=False)
                break
        else:
            return ""
    elif not text or text.startswith("<"):  # a proxy's page
        return ""
    return " ".join(text.split())[:300]


def backoff(attempt: int) -> float:
    """Seconds to wait after the failed try number `attempt`, from 1: exponential, with jitter."""
    pause: float = FIRST_PAUSE * 2 ** min(attempt - 1, 30)
    return min(LONGEST_PAUSE, pause) * random.uniform(0.5, 1.5)


def pause_before(attempt: int, asked: float | None) -> float:
    """Seconds until the try after number `attempt`: what the server asked for, and never less than ours, because
    "0" is a server's way of saying nothing."""
    return max(backoff(attempt), asked or 0.0)


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, in either of its forms; None where it asks for nothing."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=timezone.utc)
        seconds = (when - datetime.now(timezone.utc)).total_seconds()
    return min(max(0.0, seconds), _LONGEST_ASKED) if seconds == seconds else None


def shown(url: str) -> str:
    """`url` for a message: without credentials, query and fragment, which may hold secrets."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    try:
        port = parts.port
    except ValueError:
        port = None
    return urlunsplit((parts.scheme, f"{host}:{port}" if port else host, parts.path, "", ""))
