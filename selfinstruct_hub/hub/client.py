"""How the Hub's own client behaves here: its time-outs, its silence, and how long it is asked to wait."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from selfinstruct_hub.endpoint.failures import retry_after


def session(patience: float) -> Any:
    """A session that does not wait for ever: most of the client's calls have no time-out of their own."""
    import requests
    from requests.adapters import HTTPAdapter

    class Patient(HTTPAdapter):
        def send(self, request: Any, stream: Any = False, timeout: Any = None, *more: Any, **others: Any) -> Any:
            return super().send(request, stream, timeout or (30.0, patience), *more, **others)

    made = requests.Session()
    for scheme in ("http://", "https://"):
        made.mount(scheme, Patient())
    return made


def asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds until the Hub wants to be asked again: Retry-After, or `t` of its RateLimit header."""
    asked = headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked)
    window = re.search(r"\bt=(\d+)", headers.get("RateLimit", ""))
    return float(window[1]) if window else retry_after(asked or None)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's bars and log lines: what there is to say is said by us."""
    import logging

    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger("huggingface_hub")
    level, shown_before = logger.level, not are_progress_bars_disabled()
    logger.setLevel(logging.CRITICAL)
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is False:
        shown_before = False  # the user wants them, and the library would warn
    else:
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if shown_before:
            enable_progress_bars()
