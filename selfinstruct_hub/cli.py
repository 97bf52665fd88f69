"""The command line: parse, call one function, print. No rules here.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from selfinstruct_hub import __version__
from selfinstruct_hub.errors import SelfInstructError

STOPPED_EARLY = 3
INTERRUPTED = 130

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
_EXAMPLE = "[bold]Example:[/bold] "


class RecipeName(str, Enum):
    """Recipes that there are."""

    alpaca = "alpaca"
    self_instruct = "self-instruct"


class FormatName(str, Enum):
    """Files of other projects."""

    auto = "auto"
    seed_tasks = "seed_tasks"
    machine_generated_instructions = "machine_generated_instructions"
    machine_generated_instances = "machine_generated_instances"
    all_generated_instances = "all_generated_instances"
    gpt3_finetuning_data = "gpt3_finetuning_data"
    regen = "regen"
    alpaca_data = "alpaca_data"
    messages = "messages"
    prompt_completion = "prompt_completion"
    conversations = "conversations"


class Api(str, Enum):
    """Protocols that an endpoint can speak."""

    auto = "auto"
    tgi = "tgi"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"selfinstruct-hub {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog=_EXAMPLE + "selfinstruct-hub init my-tasks --language en")
def init(
    directory: Directory,
    recipe: Annotated[RecipeName, typer.Option(help="How tasks are asked for.")] = RecipeName.alpaca,
    language: Annotated[
        str, typer.Option(help="ISO 639 code of the tasks' language; en and zh come with seeds and prompts.")
    ] = "en",
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
) -> None:
    """Make a workspace: DIR/selfinstruct.yaml, every setting with its default and a comment."""
    from selfinstruct_hub import config
    from selfinstruct_hub.workspace import Workspace

    settings = config.with_overrides(
        config.Settings(),
        {
            "recipe": recipe.value,
            "language": language,
            "domain": domain,
            # Settings are relative to the workspace; what is typed is relative to the working directory.
            "seeds": _relative(Path(seeds), directory) if seeds and Path(seeds).exists() else seeds,
        },
    )
    workspace = Workspace.create(directory, settings)
    typer.echo(f"made {workspace.path / config.FILE_NAME}")
    typer.echo(f"next: selfinstruct-hub grow {directory}")


@app.command(epilog=_EXAMPLE + "selfinstruct-hub grow my-tasks --rounds 2 --tasks 500 --endpoint http://gpu:8080")
def grow(
    directory: Directory,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to add.")] = 1,
    tasks: Annotated[
        int | None, typer.Option(min=1, help="Accepted tasks that complete a round.", show_default="100")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Where to ask.", show_default="the embedded engine")
    ] = None,
    api: Annotated[Api | None, typer.Option(help="Protocol of the endpoint.", show_default="auto")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The model the endpoint must serve; without one, weights (path or id)."),
    ] = None,
    recipe: Annotated[
        RecipeName | None, typer.Option(help="How tasks are asked for.", show_default="alpaca")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Every draw follows from it.", show_default="42")] = None,
    concurrency: Annotated[
        str | None, typer.Option(metavar="auto|N", help="Requests in flight.", show_default="auto")
    ] = None,
    max_requests: Annotated[
        int | None, typer.Option(min=1, help="Stop at so many answers; failed tries do not count.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Stop before so many tokens are spent.")] = None,
) -> None:
    """Add rounds of exactly TASKS accepted tasks, each frozen as DIR/releases/vX.Y.Z.

    Options override DIR/selfinstruct.yaml for this run. Started again, it goes on where it stopped.

    Exit code 3: a budget or saturation stopped it early, and everything is kept.
    """
    from selfinstruct_hub import config, run
    from selfinstruct_hub.grow import SATURATION
    from selfinstruct_hub.show import RunView, print_status
    from selfinstruct_hub.status import status as status_of
    from selfinstruct_hub.workspace import Workspace

    workspace = Workspace.at(directory)
    settings = config.with_overrides(
        workspace.settings(),
        {
            "tasks": tasks,
            "recipe": recipe.value if recipe else None,
            "seed": seed,
            "endpoint.url": endpoint,
            "endpoint.api": api.value if api else None,
            "endpoint.model": model,
            "endpoint.concurrency": concurrency,
        },
    )
    try:
        with RunView() as view:
            if settings.endpoint.url is None:
                view.say("no endpoint is set: starting the embedded engine")

            def connected(server: Any, in_flight: int) -> None:
                view.say(
                    f"{server.model} ({server.kind} {server.version}), {in_flight} requests in flight at most"
                )

            def finished(result: run.Finished) -> None:
                outcome = result.outcome
                if result.release is not None:
                    view.say(
                        f"round {outcome.round.number}: {outcome.accepted} tasks, released as {result.release}"
                    )

            results = run.grow(
                workspace,
                settings,
                rounds=rounds,
                max_requests=max_requests,
                max_tokens=max_tokens,
                hooks=run.Hooks(connected=connected, observe=view.observe, notice=view.say, finished=finished),
            )
    except KeyboardInterrupt:
        _interrupted(directory)
    print_status(status_of(workspace))
    if results and (limit := results[-1].outcome.limit):
        outcome = results[-1].outcome
        if limit == SATURATION and outcome.detail:
            _warn(
                f"stopped by saturation: {outcome.detail}. Everything is kept; other seeds, another model or "
                "another domain bring new tasks, and the limits are under `saturation` in selfinstruct.yaml"
            )
            raise typer.Exit(STOPPED_EARLY)
        if limit == SATURATION:
            _warn(
                f"stopped: {settings.max_barren_requests} requests in a row brought no accepted task; "
                f"{outcome.accepted} of {outcome.round.wanted} tasks in round {outcome.round.number} are kept. "
                "Look at what was dropped above; another model, more seeds or other settings may help"
            )
            raise typer.Exit(STOPPED_EARLY)
        _warn(
            f"stopped by {limit} with {outcome.accepted} of {outcome.round.wanted} tasks in round "
            f"{outcome.round.number}; all are kept: start again with a higher {limit} to go on, or with --tasks "
            f"{max(1, outcome.accepted)} to release the round as it is"
        )
        raise typer.Exit(STOPPED_EARLY)


@app.command(epilog=_EXAMPLE + "selfinstruct-hub status my-tasks --json | jq .rows")
def status(
    directory: Directory,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Show what the pool holds: rounds, counts, and what was dropped and why."""
    from selfinstruct_hub.status import status as status_of
    from selfinstruct_hub.workspace import Workspace

    found = status_of(Workspace.at(directory))
    if as_json:
        import json

        typer.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        from selfinstruct_hub.show import print_status

        print_status(found)


@app.command(name="import", epilog=_EXAMPLE + "selfinstruct-hub import my-tasks alpaca_data.json")
def import_(
    directory: Directory,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL or JSON.", show_default=False)],
    format: Annotated[FormatName, typer.Option(help="What the file is; auto finds out.")] = FormatName.auto,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that are broken.")] = False,
) -> None:
    """Add the tasks of a file of Self-Instruct, Alpaca or a trainer, as a round of its own.

    Every row passes the rules and the novelty gate, like what a model writes; the verdicts are printed. Stopped
    before it is through, it adds nothing.
    """
    from selfinstruct_hub.exchange import import_file
    from selfinstruct_hub.show import CountView, print_import
    from selfinstruct_hub.workspace import Workspace

    try:
        with CountView("judged") as view:
            result = import_file(
                Workspace.at(directory), file, format=format.value, skip_bad=skip_bad, observe=view.observe
            )
    except KeyboardInterrupt:
        _warn("interrupted; nothing was imported")
        raise typer.Exit(INTERRUPTED) from None
    for said in result.bad:
        _warn(f"left out: {said}")
    print_import(result)
    if not result.tasks:
        _warn("error: no row passed, so nothing was imported; the reasons are above")
        raise typer.Exit(1)


@app.command(epilog=_EXAMPLE + "selfinstruct-hub export my-tasks alpaca_data.json --format alpaca_data")
def export(
    directory: Directory,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write; - for standard output.", show_default=False)
    ],
    format: Annotated[FormatName, typer.Option(help="What to write.", show_default=False)],
    seeds: Annotated[bool, typer.Option("--seeds", help="Write the seed tasks too, first.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Write the accepted tasks of all complete rounds as a file of Self-Instruct, Alpaca or a trainer."""
    from selfinstruct_hub.errors import UsageError
    from selfinstruct_hub.exchange import STDOUT, export_file
    from selfinstruct_hub.workspace import Workspace

    if format is FormatName.auto:
        raise UsageError("--format auto is for reading; name the format to write")
    written = export_file(Workspace.at(directory), file, format.value, with_seeds=seeds, overwrite=force)
    said = f"wrote {written.rows:,} rows of {format.value}" + ("" if file == STDOUT else f" to {file}")
    if written.duplicates:
        said += f"; {written.duplicates:,} repeated ones left out"
    if written.without_instances:
        said += f"; {written.without_instances:,} tasks without instances left out"
    if written.inexact:
        said += f"; in {written.inexact:,} rows a reader cannot tell instruction and input apart"
    _warn(said)


@app.command(epilog=_EXAMPLE + "selfinstruct-hub serve --port 8080")
def serve(
    model: Annotated[
        str | None,
        typer.Option(metavar="PATH|ID", help="GGUF file, OpenVINO folder or Hub id.", show_default="SmolLM2-135M"),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any.")] = 8080,
) -> None:
    """Serve the embedded engine in text-generation-inference's protocol, until Ctrl-C.

    With SELFINSTRUCT_API_KEY set, clients must send it as a bearer token.
    """
    from selfinstruct_hub.endpoint.connect import API_KEY_VARIABLE
    from selfinstruct_hub.local.serve import serve as run_server

    run_server(model, host, port, api_key=os.environ.get(API_KEY_VARIABLE))


@app.command(epilog=_EXAMPLE + "selfinstruct-hub doctor my-tasks --endpoint http://gpu:8080")
def doctor(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A workspace to look at.", show_default=False)
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where to ask.", show_default="the workspace's, or the engine"),
    ] = None,
) -> None:
    """Check workspace, disk, endpoint, engine and Hub, and say what to do."""
    from selfinstruct_hub.doctor import examine
    from selfinstruct_hub.show import print_finding

    failed = False
    for finding in examine(directory, endpoint):
        print_finding(finding)
        failed = failed or finding.ok is False
    if failed:
        raise typer.Exit(1)


def main() -> None:
    """Entry point: errors that a user can mend become one line and an exit code."""
    try:
        app()
    except SelfInstructError as error:
        _warn(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of a pipe went away (`| head`); Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _relative(path: Path, directory: Path) -> str:
    try:
        return os.path.relpath(path.resolve(), directory.resolve())
    except ValueError:  # another drive on Windows
        return str(path.resolve())


def _interrupted(directory: Path) -> NoReturn:
    _warn(f"interrupted; what was answered is kept: `selfinstruct-hub grow {directory}` goes on")
    raise typer.Exit(INTERRUPTED)


def _warn(text: str) -> None:
    typer.echo(text, err=True)


if __name__ == "__main__":
    main()
