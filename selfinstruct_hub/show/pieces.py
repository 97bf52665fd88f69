"""What every form of output is put together from: consoles, and figures as a person reads them. No state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from rich.console import Console

from selfinstruct_hub.figures import counted
from selfinstruct_hub.forecast import Forecast

_REASONS_SHOWN = 3


def console_of(file: TextIO, width: int | None = None) -> Console:
    """Prints texts as they are: paths and names may hold what looks like markup."""
    return Console(file=file, width=width, markup=False, emoji=False, highlight=False)


def is_live(console: Console) -> bool:
    """Whether `console` is a terminal that lines can be taken back on; no log file, whatever FORCE_COLOR says."""
    return console.file.isatty() and console.is_terminal and console.is_interactive


def about(number: float) -> str:
    """`number` with two significant digits: 38, 230, 46,000, 1.2 million."""
    if number < 9.5:
        return str(round(number))
    for size, name in ((1e9, " billion"), (1e6, " million")):
        if number >= 0.995 * size:
            return f"{_two_digits(number / size)}{name}"
    return f"{float(f'{number:.2g}'):,.0f}"


def duration(seconds: float) -> str:
    """About how long: 8 s, 45 s, 1.5 min, 12 min, 5.5 h, 3 days."""
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 88:
        return f"{5 * round(seconds / 5)} s"
    if seconds < 89.5 * 60:
        return f"{_two_digits(seconds / 60)} min"
    if seconds < 36 * 3600:
        return f"{_two_digits(seconds / 3600)} h"
    return f"{_two_digits(seconds / 86400)} days"


def money(amount: float, currency: str) -> str:
    """An amount with at least two digits that count: 0.0012 USD, 0.90 USD, 12.30 USD."""
    digits = 2
    while 0 < amount < 10 ** (1 - digits) and digits < 8:
        digits += 1
    return f"{amount:,.{digits}f} {currency}"


def about_money(amount: float, currency: str) -> str:
    """An amount with two significant digits: 0.0012 USD, 0.90 USD, 12 USD, 340 USD."""
    return money(amount, currency) if amount < 9.95 else f"{_two_digits(amount)} {currency}"


def speed(per_second: float, unit: str) -> str:
    """3.4 requests/s, or for what is slow 12 requests/min and 40 requests/h."""
    for seconds, name in ((1, "s"), (60, "min"), (3600, "h")):
        if per_second * seconds >= 0.95 or seconds == 3600:
            number = per_second * seconds
            return f"{number:,.0f} {unit}/{name}" if number >= 9.95 else f"{number:.1f} {unit}/{name}"
    raise AssertionError("the last one always fits")


def reasons(counts: Mapping[str, int], most: int = _REASONS_SHOWN) -> str:
    """The commonest few of `counts`, with their numbers, and the rest together: too_similar 40, cut_off 20, 3
    others 9."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    # One that would stand alone for "others" is named as well.
    shown = ordered if len(ordered) <= most + 1 else ordered[:most]
    parts = [f"{reason} {count:,}" for reason, count in shown]
    if rest := ordered[len(shown) :]:
        parts.append(f"{len(rest)} others {sum(count for _, count in rest):,}")
    return ", ".join(parts)


def sentence(forecast: Forecast, whole: int, currency: str, *, unit: str = "task", end: str = "accepted") -> str:
    """`forecast` in words; `whole` is the number of accepted tasks that it ends at, or of what else is counted as
    `unit`."""
    parts = [
        f"about {about(forecast.requests)} more {'request' if forecast.requests == 1 else 'requests'}",
        duration(forecast.seconds),
        f"{about(forecast.tokens)} tokens",
    ]
    if forecast.cost is not None:
        parts.append(about_money(forecast.cost, currency))
    text = f"{', '.join(parts)} until {counted(whole, unit)} {'is' if whole == 1 else 'are'} {end}"
    return f"{text}; {ends_before(forecast, whole, unit)}" if forecast.limit else text


def ends_before(forecast: Forecast, whole: int, unit: str = "task") -> str:
    """Which budget ends the run before it is done."""
    return f"{forecast.limit} ends it before, at about {about(whole - forecast.tasks + forecast.within)} {unit}s"


def _two_digits(number: float) -> str:
    rounded = float(f"{number:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 or rounded == round(rounded) else f"{rounded:g}"
