"""What a person sees of a run, and a program that watches one.

Progress goes to standard error, results to standard output, so that output pipes.
"""

from __future__ import annotations

import sys

from selfinstruct_hub.config import Settings
from selfinstruct_hub.show.deduplication import DedupView, dedup_json, dedup_lines
from selfinstruct_hub.show.live import CountView, LiveView
from selfinstruct_hub.show.log import JsonView, LineView, StepView, Write
from selfinstruct_hub.show.pieces import console_of, is_live
from selfinstruct_hub.show.tables import print_finding, print_import, print_status
from selfinstruct_hub.show.views import RunView

__all__ = [
    "CountView",
    "DedupView",
    "RunView",
    "dedup_json",
    "dedup_lines",
    "print_finding",
    "print_import",
    "print_status",
    "view_of",
]


def view_of(settings: Settings, write: Write | None = None) -> RunView:
    """The form that fits: JSON where `write` takes it; a line for every step where requests go one by one; a live
    picture on a terminal; lines from time to time elsewhere."""
    if write is not None:
        return JsonView(write, settings.prices)
    if settings.endpoint.concurrency == 1:
        return StepView(settings.prices)
    if is_live(console_of(sys.stderr)):
        return LiveView(settings.prices)
    return LineView(settings.prices)
