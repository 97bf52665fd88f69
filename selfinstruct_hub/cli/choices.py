"""What several commands share: the choices that there are, the root of the commands, lines on standard error.

Known here without importing what has them, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from selfinstruct_hub.errors import UsageError

STOPPED_EARLY = 3
INTERRUPTED = 130
LOG_JSON = "--log-json"

app = typer.Typer(
    name="selfinstruct-hub",
    help="Grow a pool of instruction tasks with a language model and publish every round as a versioned dataset.",
    epilog="Begin with: selfinstruct-hub init my-tasks && selfinstruct-hub grow my-tasks",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The workspace.", show_default=False)]
EXAMPLE = "[bold]Example:[/bold] "


# What there is to choose from, known here without importing what has it.
RECIPES = ("alpaca", "self-instruct")
APIS = ("auto", "tgi", "openai")
FORMATS = {
    "Self-Instruct": (
        "seed_tasks",
        "machine_generated_instructions",
        "machine_generated_instances",
        "all_generated_instances",
        "gpt3_finetuning_data",
    ),
    "Alpaca": ("alpaca_data", "regen"),
    "trainers": ("messages", "prompt_completion", "conversations"),
}
FORMAT_NAMES = tuple(name for names in FORMATS.values() for name in names)
SEED_COLUMNS = ("instruction", "input", "output", "is_classification", "id")

# One paragraph a line: where a line ends, the help ends one too.
FORMATS_HELP = "\n\n".join(
    f"Formats of {owner}:\n" + "\n".join(f"  {name}" for name in names) for owner, names in FORMATS.items()
)


def choice(names: Sequence[str], *, metavar: str, help: str, **more: Any) -> Any:
    """An option that takes one of `names`; another one is a mistake told in one line."""

    def check(param: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in names:
            raise UsageError(f"{param.opts[0]}: expected {listed(names)}, got {value!r}")
        return value

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return typer.Option(metavar=metavar, help=help, callback=check, autocompletion=complete, **more)


def duration(text: str) -> float:
    """Seconds of what --max-time takes: 90m, 8h, 1h30m, 3600s, 2d; a plain number is seconds."""
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1, "": 1}
    whole = re.fullmatch(r"(?:(?:\d+(?:\.\d+)?[dhms])+|\d+(?:\.\d+)?)", text.strip().lower().replace(" ", ""))
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms]?)", whole[0]) if whole else []
    seconds = sum(float(number) * units[unit] for number, unit in parts)
    if not (0 < seconds < math.inf) or len({unit for _, unit in parts}) < len(parts):
        raise UsageError(f"--max-time: expected a time such as 90m, 8h, 1h30m or 3600s, got {text!r}")
    return seconds


def span(option: str, text: str) -> range:
    """The numbers that A-B names, or A alone; counted from 1."""
    whole = re.fullmatch(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", text)
    first, last = (int(whole[1]), int(whole[2] or whole[1])) if whole else (0, 0)
    if not 1 <= first <= last:
        raise UsageError(f"{option}: expected A-B with 1 or more for A, such as 1-3, or one number, got {text!r}")
    return range(first, last + 1)


def amount(text: str) -> float:
    """What --max-cost takes: an amount of money."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"--max-cost: expected an amount above 0, such as 2.50, got {text!r}")
    return value


Api = Annotated[
    str | None, choice(APIS, metavar="auto|tgi|openai", help="Protocol of the endpoint.", show_default="auto")
]
Model = Annotated[
    str | None,
    typer.Option(metavar="ID", help="The model the endpoint must serve; without one, weights (path or id)."),
]
Endpoints = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="Where to ask; several share the load.", show_default="the embedded engine"),
]
Concurrency = Annotated[
    str | None,
    typer.Option(
        metavar="auto|N", help="Requests in flight; 1: one by one, and a line for each.", show_default="auto"
    ),
]
MaxRequests = Annotated[
    int | None, typer.Option(min=1, help="Stop at so many answers; failed tries do not count.")
]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Stop before so many tokens are spent.")]
MaxTime = Annotated[
    float | None,
    typer.Option(
        parser=duration, metavar="TIME", help="Ask for nothing more after so long: 90m, 8h, 1h30m, 3600s."
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        parser=amount,
        metavar="AMOUNT",
        help="Stop before so much money is spent, by the prices in selfinstruct.yaml.",
    ),
]


def endpoint_settings(
    urls: Sequence[str] | None, api: str | None, model: str | None, concurrency: str | None
) -> dict[str, Any]:
    """What these options set of the settings' `endpoint`."""
    return {
        "endpoint.url": list(urls) if urls and len(urls) > 1 else urls[0] if urls else None,
        "endpoint.api": api,
        "endpoint.model": model,
        "endpoint.concurrency": concurrency,
    }


def listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


class Log:
    """Standard error, where everything goes that is no result: as text, or as lines of JSON for --log-json."""

    def __init__(self) -> None:
        self.json = False
        self._lock = threading.Lock()  # figures are written by a thread of their own

    def write(self, values: Mapping[str, Any]) -> None:
        """One line of JSON, in ASCII, so that it is one whatever the locale; the time is added."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": now, **values}, default=str)
        with self._lock:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


log = Log()


def warn(text: str) -> None:
    if log.json:
        log.write({"event": "notice", "text": text})
    else:
        typer.echo(text, err=True)


def fail(message: str, exit_code: int) -> None:
    """Says what ended the command."""
    if log.json:
        log.write({"event": "error", "message": message, "exit_code": exit_code})
        stopped("error", message, exit_code)
    else:
        typer.echo(f"error: {message}", err=True)


def stopped(reason: str, message: str, exit_code: int) -> None:
    """The last line of a run: why it ended. `reason` is for programs; an empty message is nothing to say."""
    if log.json:
        log.write({"event": "stopped", "reason": reason, "exit_code": exit_code, "message": message})
    elif message:
        typer.echo(message, err=True)
