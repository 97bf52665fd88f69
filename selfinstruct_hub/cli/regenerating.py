"""`regenerate`: rows that are released, written anew."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfinstruct_hub.cli.choices import (
    EXAMPLE,
    INTERRUPTED,
    STOPPED_EARLY,
    Api,
    Concurrency,
    Directory,
    Endpoints,
    MaxCost,
    MaxRequests,
    MaxTime,
    MaxTokens,
    Model,
    app,
    choice,
    endpoint_settings,
    span,
    warn,
)
from selfinstruct_hub.errors import UsageError

if TYPE_CHECKING:
    from selfinstruct_hub.config import Settings
    from selfinstruct_hub.regenerate import Choice, Estimate, Regenerated

PARTS = ("output", "instance")


@app.command(
    epilog=EXAMPLE + 'selfinstruct-hub regenerate my-tasks --where "model=org/old" --endpoint http://gpu:8080',
    help="Ask for new outputs, or new instances, to instructions that are released; what changes becomes a patch "
    "version.\n\n"
    "What today's rules drop, and what is never answered, leaves the old row where it is. Started again, it goes "
    "on where it stopped, and asks for nothing twice.\n\n"
    "--where FIELD=VALUE also takes != < <= > >=. Fields: model, recipe, endpoint_kind, finish_reason (of the "
    "answer that brought the row), lost (why an instance of its task was left out), similarity (of the nearest "
    "neighbour), input_words, input_characters, output_words, output_characters, is_classification. The value "
    "none stands for what is not known.",
)
def regenerate(
    directory: Directory,
    rounds: Annotated[
        str | None, typer.Option(metavar="A-B", help="Only rows of these rounds.", show_default="all")
    ] = None,
    part: Annotated[
        str | None,
        choice(
            PARTS,
            metavar="output|instance",
            help="A new output to the same input, or new inputs and outputs.",
            show_default="output",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="QUERY", help="Only rows that it is true of; several: all of them.", show_default="all"
        ),
    ] = None,
    ids: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Only rows whose ids stand there, one a line.")
    ] = None,
    endpoint: Endpoints = None,
    api: Api = None,
    model: Model = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Every draw follows from it.", show_default="the workspace's")
    ] = None,
    concurrency: Concurrency = None,
    max_requests: MaxRequests = None,
    max_tokens: MaxTokens = None,
    max_time: MaxTime = None,
    max_cost: MaxCost = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which rows and what it would cost; ask nobody.")
    ] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Put back what was begun and is not finished.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    from selfinstruct_hub import config
    from selfinstruct_hub.endpoint.budget import check_prices
    from selfinstruct_hub.regenerate import Choice, estimate
    from selfinstruct_hub.regenerate import abandon as put_back
    from selfinstruct_hub.regenerate import regenerate as written_anew
    from selfinstruct_hub.show import view_of
    from selfinstruct_hub.working import Bounds, Hooks
    from selfinstruct_hub.workspace import Workspace

    chosen = _choice(rounds, part, where, ids, seed)
    workspace = Workspace.at(directory)
    overrides = endpoint_settings(endpoint, api, model, concurrency)
    settings = config.with_overrides(workspace.settings(), overrides)
    check_prices(max_cost, settings.prices)
    if abandon:
        if dry_run or chosen != Choice():
            raise UsageError("--abandon puts back what was begun, as a whole; leave the other options out")
        revision = put_back(workspace, settings)
        found = {"abandoned": revision.version, "rounds": list(revision.rounds)}
        typer.echo(json.dumps(found) if as_json else f"put back: {revision.version} is not made")
        return
    if dry_run:
        estimated = estimate(workspace, settings, chosen)
        _print(_estimate_as_dict(estimated, settings) if as_json else _estimate_lines(estimated, settings))
        raise typer.Exit(0 if estimated.requests else 1)
    try:
        with view_of(settings) as view:
            result = written_anew(
                workspace,
                settings,
                chosen,
                bounds=Bounds(max_requests, max_tokens, max_time, max_cost),
                hooks=Hooks(report=view.report, observe=view.observe, notice=view.say, finished=view.finished),
            )
    except KeyboardInterrupt:
        warn(f"interrupted; what was answered is kept: {_again()} goes on")
        raise typer.Exit(INTERRUPTED) from None
    if as_json or result.revision is not None:
        _print(_as_dict(result) if as_json else _lines(result))
    text, code = _how_it_ended(result)
    if text:
        warn(text)
    raise typer.Exit(code)


def _choice(
    rounds: str | None, part: str | None, where: list[str] | None, ids: str | None, seed: int | None
) -> Choice:
    from selfinstruct_hub.regenerate.choosing import Choice, Query

    numbers = span("--rounds", rounds) if rounds is not None else None
    return Choice(
        part=part,
        rounds=(numbers[0], numbers[-1]) if numbers else None,
        where=tuple(Query.of(text) for text in where) if where else None,
        ids=_ids(ids) if ids is not None else None,
        seed=seed,
    )


def _ids(name: str) -> tuple[str, ...]:
    """The ids that a file has, or standard input."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"--ids: {name}: not UTF-8 text; expected ids of rows, one a line") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--ids: {name}: cannot be read ({reason})") from None
    found = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not found:
        raise UsageError(f"--ids: {name}: has no ids; expected ids of rows, one a line")
    return found


def _print(result: dict[str, Any] | Sequence[str]) -> None:
    typer.echo(json.dumps(result, ensure_ascii=False, indent=2) if isinstance(result, dict) else "\n".join(result))


def _estimate_lines(found: Estimate, settings: Settings) -> list[str]:
    from selfinstruct_hub.figures import counted
    from selfinstruct_hub.show.pieces import about, about_money

    if not found.requests:
        return ["no row is chosen, so nothing would be asked"]
    lines = [f"round {number}: {counted(count, 'row')}" for number, count in found.rows.items()]
    begun = f" of {found.goes_on}, which is not finished" if found.goes_on else ""
    lines.append(f"{counted(sum(found.rows.values()), 'row')}{begun}: {counted(found.requests, 'request')}")
    lines.append(
        f"about {about(found.prompt_tokens)} tokens of prompts and {about(found.generated_tokens)} generated, "
        f"{about(found.most_generated)} at most"
    )
    if found.cost is not None and found.most_cost is not None:
        currency = settings.prices.currency
        lines.append(
            f"about {about_money(found.cost, currency)}, {about_money(found.most_cost, currency)} at most, by the "
            "prices in selfinstruct.yaml"
        )
    else:
        lines.append("set `prices` in selfinstruct.yaml to see what that costs")
    return lines


def _estimate_as_dict(found: Estimate, settings: Settings) -> dict[str, Any]:
    known = found.cost is not None and found.most_cost is not None
    return {
        "part": found.part,
        "rounds": {str(number): {"chosen": count} for number, count in found.rows.items()},
        "requests": found.requests,
        "tokens": {
            "prompt": found.prompt_tokens,
            "generated": found.generated_tokens,
            "most_generated": found.most_generated,
        },
        "cost": {"amount": found.cost, "most": found.most_cost, "currency": settings.prices.currency}
        if known
        else None,
        "goes_on": found.goes_on,
    }


def _lines(found: Regenerated) -> list[str]:
    from selfinstruct_hub.figures import counted
    from selfinstruct_hub.show.pieces import reasons

    if found.revision is None:
        return []
    lines = []
    for number, counts in found.changes.items():
        parts = [f"{name} {counts[name]:,}" for name in ("replaced", "won", "same") if counts.get(name)]
        kept = counts.get("kept", {})
        if kept:
            parts.append(f"kept as they were {sum(kept.values()):,} ({reasons(kept, most=9)})")
        lines.append(f"round {number}: rows {', '.join(parts) if parts else 'none yet'}")
    spent = found.spent
    lines.append(f"{counted(spent.requests, 'request')}, {spent.prompt_tokens + spent.generated_tokens:,} tokens")
    if found.release is not None:
        lines.append(f"made {found.release}")
    elif found.limit is None:
        lines.append(f"{found.revision.version} has no row, so there is nothing to publish")
    return lines


def _as_dict(found: Regenerated) -> dict[str, Any]:
    revision, spent = found.revision, found.spent
    return {
        "version": revision.version if revision else None,
        "part": revision.settings["part"] if revision else None,
        "model": revision.settings["model"] if revision else None,
        "chosen": found.places,
        "done": found.done,
        "rounds": {number: dict(counts) for number, counts in found.changes.items()},
        "requests": spent.requests,
        "tokens": {"prompt": spent.prompt_tokens, "generated": spent.generated_tokens},
        "release": None if found.release is None else str(found.release),
        "limit": found.limit,
        "detail": found.detail,
    }


def _how_it_ended(found: Regenerated) -> tuple[str, int]:
    """(in words, exit code)."""
    from selfinstruct_hub.figures import counted
    from selfinstruct_hub.grow import FAILING, INTERRUPT, REFUSED

    if found.revision is None:
        return "no row is chosen, so nothing was asked and nothing is made", 1
    if found.limit is None:
        return "", 0
    unit = "row" if found.revision.settings["part"] == "output" else "task"
    done = f"{found.done:,} of {counted(found.places, unit)} of {found.revision.version} done; everything is kept"
    if found.limit == INTERRUPT:
        return f"interrupted; {done}: {_again()} goes on", INTERRUPTED
    if found.limit in (FAILING, REFUSED):
        return f"stopped: {found.detail}; {done}. Mend the endpoint, then the same command goes on", 1
    spent = f" ({found.detail})" if found.detail else ""
    return (
        f"stopped by {found.limit}{spent}; {done}: start again with a higher {found.limit} to go on",
        STOPPED_EARLY,
    )


def _again() -> str:
    return f"`{shlex.join(['selfinstruct-hub', *sys.argv[1:]])}`"
