"""`init`, `grow` and `status`."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfinstruct_hub.cli.choices import (
    EXAMPLE,
    INTERRUPTED,
    LOG_JSON,
    RECIPES,
    SEED_COLUMNS,
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
    listed,
    log,
    stopped,
)
from selfinstruct_hub.errors import UsageError

if TYPE_CHECKING:
    from selfinstruct_hub.config import Settings
    from selfinstruct_hub.grow import RoundOutcome
    from selfinstruct_hub.workspace import Workspace


@app.command(epilog=EXAMPLE + "selfinstruct-hub init my-tasks --language en")
def init(
    context: typer.Context,
    directory: Directory,
    recipe: Annotated[
        str, choice(RECIPES, metavar="alpaca|self-instruct", help="How tasks are asked for.")
    ] = "alpaca",
    language: Annotated[
        str,
        typer.Option(
            metavar="CODE", help="ISO 639 code of the tasks' language; en and zh come with seeds and prompts."
        ),
    ] = "en",
    language_name: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Its name in English, as prompts say it.",
            show_default="known for the common ones",
        ),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(metavar="TEXT", help='What all tasks must be about, such as "medicine".')
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|ID",
            help="Your own seed tasks: a JSONL, a dataset folder, or a dataset on the Hub.",
            show_default="those we bring",
        ),
    ] = None,
    seed_column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COLUMN",
            help=f"A column of the seed dataset, where NAME is {listed(SEED_COLUMNS)}; input=null: none. Once "
            "for each.",
            show_default=False,
        ),
    ] = None,
    seed_split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split of the seed dataset.", show_default="train")
    ] = None,
    seed_config: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Config of the seed dataset.", show_default="the only or default one"),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FOLDER", help="A release: all of its settings and its seeds.", show_default=False
        ),
    ] = None,
) -> None:
    """Make a workspace: DIR/selfinstruct.yaml, every setting with its default and a comment."""
    if source is not None:
        own = ("directory", "source")
        given = [name for name in context.params if name not in own and _is_given(context, name)]
        if given:
            raise UsageError(
                f"--from takes every setting from the release, so --{given[0].replace('_', '-')} cannot be given "
                "too; change it in selfinstruct.yaml afterwards"
            )
        _begin_from(source, directory)
        return
    from selfinstruct_hub import config
    from selfinstruct_hub.workspace import Workspace

    columns = _seed_columns(seed_column or [])
    if seeds is None and (columns or seed_split or seed_config):
        raise UsageError("--seed-column, --seed-split and --seed-config say how to read --seeds; give that too")
    defaults = config.Settings()
    without = {name: None for name, column in columns.items() if column is None}
    settings = config.with_overrides(
        defaults.model_copy(update={"seed_dataset": defaults.seed_dataset.model_copy(update=without)}),
        {
            "recipe": recipe,
            "language": language,
            "language_name": language_name,
            "domain": domain,
            "seeds": _seeds_setting(seeds, directory) if seeds is not None else None,
            "seed_dataset.config": seed_config,
            "seed_dataset.split": seed_split,
            **{f"seed_dataset.{name}": column for name, column in columns.items()},
        },
    )
    workspace = Workspace.create(directory, settings)
    typer.echo(f"made {workspace.path / config.FILE_NAME}")
    typer.echo(f"next: selfinstruct-hub grow {directory}")


@app.command(epilog=EXAMPLE + "selfinstruct-hub grow my-tasks --rounds 2 --tasks 500 --endpoint http://gpu:8080")
def grow(
    directory: Directory,
    rounds: Annotated[
        int, typer.Option(min=0, help="Rounds to add; 0 packages what is complete, and asks nothing.")
    ] = 1,
    tasks: Annotated[
        int | None, typer.Option(min=1, help="Accepted tasks that complete a round.", show_default="100")
    ] = None,
    endpoint: Endpoints = None,
    api: Api = None,
    model: Model = None,
    recipe: Annotated[
        str | None,
        choice(RECIPES, metavar="alpaca|self-instruct", help="How tasks are asked for.", show_default="alpaca"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Every draw follows from it.", show_default="42")] = None,
    concurrency: Concurrency = None,
    max_requests: MaxRequests = None,
    max_tokens: MaxTokens = None,
    max_time: MaxTime = None,
    max_cost: MaxCost = None,
    top_up: Annotated[
        bool, typer.Option("--top-up", help="Fill complete rounds that a revision has made shorter.")
    ] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="With --top-up: put back what was begun and is not finished.")
    ] = False,
    log_json: Annotated[
        bool, typer.Option(LOG_JSON, help="Standard error in lines of JSON, one for every event.")
    ] = False,
) -> None:
    """Add rounds of exactly TASKS accepted tasks, each frozen as DIR/releases/vX.Y.Z.

    Options override DIR/selfinstruct.yaml for this run. Started again, it goes on where it stopped.

    Exit code 3: a budget or saturation stopped it early, and everything is kept.
    """
    log.json = log_json
    from selfinstruct_hub import config, run
    from selfinstruct_hub.endpoint.budget import check_prices
    from selfinstruct_hub.show import print_status, view_of
    from selfinstruct_hub.status import status as status_of
    from selfinstruct_hub.workspace import Workspace

    workspace = Workspace.at(directory)
    settings = config.with_overrides(
        workspace.settings(),
        {
            "tasks": tasks,
            "recipe": recipe,
            "seed": seed,
            **endpoint_settings(endpoint, api, model, concurrency),
        },
    )
    check_prices(max_cost, settings.prices)
    if abandon and not top_up:
        raise UsageError("--abandon puts back what --top-up has begun; give both")
    if top_up:
        if tasks is not None or recipe is not None or seed is not None or rounds != 1:
            raise UsageError(
                "--top-up fills every round to the number it was begun for, with its own settings; leave "
                "--rounds, --tasks, --recipe and --seed out"
            )
        bounds = (max_requests, max_tokens, max_time, max_cost)
        _fill(workspace, settings, bounds, abandon=abandon, log_json=log_json)
        return
    try:
        with view_of(settings, log.write if log_json else None) as view:
            if settings.endpoint.url is None and rounds:
                view.say("no endpoint is set: starting the embedded engine")
            results = run.grow(
                workspace,
                settings,
                rounds=rounds,
                max_requests=max_requests,
                max_tokens=max_tokens,
                max_seconds=max_time,
                max_cost=max_cost,
                hooks=run.Hooks(report=view.report, observe=view.observe, notice=view.say, finished=view.finished),
            )
    except KeyboardInterrupt:
        stopped("interrupt", _interrupted(), INTERRUPTED)
        raise typer.Exit(INTERRUPTED) from None
    print_status(status_of(workspace))
    reason, message, code = how_it_ended(results[-1].outcome, settings) if results else ("done", "", 0)
    stopped(reason, message, code)
    raise typer.Exit(code)


def _fill(
    workspace: Workspace,
    settings: Settings,
    bounds: tuple[int | None, int | None, float | None, float | None],
    *,
    abandon: bool,
    log_json: bool,
) -> None:
    """`grow --top-up`."""
    from selfinstruct_hub import top_up
    from selfinstruct_hub.figures import counted
    from selfinstruct_hub.show import view_of
    from selfinstruct_hub.working import Bounds, Hooks

    if abandon:
        typer.echo(f"put back: {top_up.abandon(workspace, settings).version} is not made")
        return
    try:
        with view_of(settings, log.write if log_json else None) as view:
            filled = top_up.top_up(
                workspace,
                settings,
                bounds=Bounds(*bounds),
                hooks=Hooks(report=view.report, observe=view.observe, notice=view.say, finished=view.finished),
            )
    except KeyboardInterrupt:
        stopped("interrupt", _interrupted(), INTERRUPTED)
        raise typer.Exit(INTERRUPTED) from None
    if filled.revision is None:
        typer.echo("no round is short; nothing to fill")
    for number, won in filled.won.items():
        missing = filled.short.get(number, 0)
        typer.echo(
            f"round {number}: {counted(won, 'task')} won" + (f", {missing:,} still missing" if missing else "")
        )
    if filled.release is not None:
        typer.echo(f"made {filled.release}")
    reason, message, code = how_it_ended(filled.outcome, settings) if filled.outcome else ("done", "", 0)
    if code == STOPPED_EARLY and filled.outcome and reason.startswith("--"):
        spent = f" ({filled.outcome.detail})" if filled.outcome.detail else ""
        message = f"stopped by {reason}{spent}; everything is kept: start again with a higher {reason} to go on"
    stopped(reason, message, code)
    raise typer.Exit(code)


@app.command(epilog=EXAMPLE + "selfinstruct-hub status my-tasks --json | jq .rows")
def status(
    directory: Directory,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Show what the pool holds: rounds, counts, and what was dropped and why.

    Exit code 1: a file of a release is missing or changed.
    """
    from selfinstruct_hub.status import status as status_of
    from selfinstruct_hub.workspace import Workspace

    found = status_of(Workspace.at(directory))
    if as_json:
        import json

        typer.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        from selfinstruct_hub.show import print_status

        print_status(found)
    if found["problems"]:
        raise typer.Exit(1)


def _interrupted() -> str:
    """With the very command, options included: without them another endpoint would go on, to another number."""
    return f"interrupted; what was answered is kept: `{shlex.join(['selfinstruct-hub', *sys.argv[1:]])}` goes on"


def how_it_ended(outcome: RoundOutcome, settings: Settings) -> tuple[str, str, int]:
    """Why a run ended where it did: (reason, in words, exit code). No words where it is simply done."""
    from selfinstruct_hub.figures import counted
    from selfinstruct_hub.grow import BARREN, FAILING, INTERRUPT, REFUSED, SATURATION

    limit = outcome.limit
    done = f"{outcome.accepted:,} of {counted(outcome.round.wanted, 'task')} in round {outcome.round.number}"
    if limit is None:
        note = f"note: saturation: {outcome.detail}; the next grow stops at once" if outcome.detail else ""
        return "done", note, 0
    if limit == INTERRUPT:
        return limit, f"{_interrupted()} ({done})", INTERRUPTED
    if limit in (REFUSED, FAILING):
        text = (
            f"stopped: {outcome.detail}; {done}; everything is kept. Mend the endpoint, then the same command "
            "goes on"
        )
        return limit, text, 1
    if limit == SATURATION:
        text = (
            f"stopped by saturation: {outcome.detail}. Everything is kept; other seeds, another model or "
            "another domain bring new tasks, and the limits are under `saturation` in selfinstruct.yaml"
        )
    elif limit == BARREN:
        text = (
            f"stopped: {counted(settings.max_barren_requests or 0, 'request')} in a row brought no accepted task; "
            f"{done}; everything is kept. Look at what was dropped above; another model, more seeds or other "
            "settings may help"
        )
    else:
        release = f", or with --tasks {outcome.accepted} to release the round as it is" if outcome.accepted else ""
        spent = f" ({outcome.detail})" if outcome.detail else ""
        text = (
            f"stopped by {limit}{spent} with {done}; everything is kept: "
            f"start again with a higher {limit} to go on{release}"
        )
    return limit, text, STOPPED_EARLY


def _is_given(context: typer.Context, name: str) -> bool:
    found = context.get_parameter_source(name)
    return found is not None and found.name == "COMMANDLINE"


def _begin_from(folder: Path, directory: Path) -> None:
    from selfinstruct_hub import config
    from selfinstruct_hub.figures import counted
    from selfinstruct_hub.reproduce import begin_from

    made = begin_from(folder, directory)
    typer.echo(f"made {made.workspace.path / config.FILE_NAME}, and {counted(made.seeds, 'seed')} beside it")
    if made.models:
        typer.echo(f"the release was grown with {', '.join(made.models)}")
    for tasks, some in itertools.groupby(made.tasks):
        rounds = len(list(some))
        more = f" --rounds {rounds}" if rounds > 1 else ""
        typer.echo(f"next: selfinstruct-hub grow {directory}{more} --tasks {tasks}")


def _seed_columns(given: Sequence[str]) -> dict[str, str | None]:
    """What --seed-column says, by name; None for `null`."""
    columns: dict[str, str | None] = {}
    for text in given:
        name, _, column = text.partition("=")
        if name not in SEED_COLUMNS or not column:
            raise UsageError(
                f"--seed-column: expected NAME=COLUMN with {listed(SEED_COLUMNS)} for NAME, got {text!r}"
            )
        columns[name] = None if column == "null" else column
    return columns


def _seeds_setting(seeds: str, directory: Path) -> str:
    """What is typed is relative to the working directory, and the setting to the workspace; the id of a dataset
    on the Hub stays."""
    from selfinstruct_hub.seeds import is_hub_id

    if not seeds:
        raise UsageError("--seeds: expected a path or the id of a dataset, got ''")
    try:
        path = Path(seeds).expanduser()
        if is_hub_id(seeds) and not path.exists():
            return seeds
        path = path.resolve()
    except (OSError, RuntimeError, ValueError):  # forbidden; no such home; no path at all: told when it is read
        return seeds
    try:
        return os.path.relpath(path, directory.resolve())
    except ValueError:  # another drive on Windows
        return str(path)
