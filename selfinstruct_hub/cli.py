"""The command line: parse, call one function, print. No rules here.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from selfinstruct_hub import __version__
from selfinstruct_hub.errors import SelfInstructError, UsageError

if TYPE_CHECKING:
    from selfinstruct_hub.config import Settings
    from selfinstruct_hub.grow import RoundOutcome

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


# What there is to choose from, known here without importing what has it.
RECIPES = ("alpaca", "self-instruct")
APIS = ("auto", "tgi")
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
_FORMATS_HELP = "\n\n".join(
    f"Formats of {owner}:\n" + "\n".join(f"  {name}" for name in names) for owner, names in FORMATS.items()
)


def _choice(names: Sequence[str], *, metavar: str, help: str, **more: Any) -> Any:
    """An option that takes one of `names`; another one is a mistake told in one line."""

    def check(param: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in names:
            raise UsageError(f"{param.opts[0]}: expected {_listed(names)}, got {value!r}")
        return value

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return typer.Option(metavar=metavar, help=help, callback=check, autocompletion=complete, **more)


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


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
    recipe: Annotated[
        str, _choice(RECIPES, metavar="alpaca|self-instruct", help="How tasks are asked for.")
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
            help=f"A column of the seed dataset, where NAME is {_listed(SEED_COLUMNS)}; input=null: none. Once "
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
) -> None:
    """Make a workspace: DIR/selfinstruct.yaml, every setting with its default and a comment."""
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
    api: Annotated[
        str | None,
        _choice(APIS, metavar="auto|tgi", help="Protocol of the endpoint.", show_default="auto"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The model the endpoint must serve; without one, weights (path or id)."),
    ] = None,
    recipe: Annotated[
        str | None,
        _choice(RECIPES, metavar="alpaca|self-instruct", help="How tasks are asked for.", show_default="alpaca"),
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
    from selfinstruct_hub.show import RunView, counted, print_status
    from selfinstruct_hub.status import status as status_of
    from selfinstruct_hub.workspace import Workspace

    workspace = Workspace.at(directory)
    settings = config.with_overrides(
        workspace.settings(),
        {
            "tasks": tasks,
            "recipe": recipe,
            "seed": seed,
            "endpoint.url": endpoint,
            "endpoint.api": api,
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
                    f"{server.model} ({server.kind} {server.version}), {counted(in_flight, 'request')} in flight "
                    "at most"
                )

            def finished(result: run.Finished) -> None:
                outcome = result.outcome
                if result.release is not None:
                    view.say(
                        f"round {outcome.round.number}: {counted(outcome.accepted, 'task')}, released as "
                        f"{result.release}"
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
    if results:
        _say_how_it_ended(results[-1].outcome, settings)


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


@app.command(
    name="import",
    epilog=_EXAMPLE + "selfinstruct-hub import my-tasks alpaca_data.json",
    help="Add the tasks of a file of Self-Instruct, Alpaca or a trainer, as a round of its own.\n\n"
    "Every row passes the rules and the novelty gate, like what a model writes; the verdicts are printed. "
    "Stopped before it is through, it adds nothing.\n\n" + _FORMATS_HELP,
)
def import_(
    directory: Directory,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL or JSON.", show_default=False)],
    format: Annotated[
        str, _choice(("auto", *FORMAT_NAMES), metavar="NAME|auto", help="What the file is; auto finds out.")
    ] = "auto",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that are broken.")] = False,
) -> None:
    from selfinstruct_hub.exchange import import_file
    from selfinstruct_hub.show import CountView, print_import
    from selfinstruct_hub.workspace import Workspace

    try:
        with CountView("judged") as view:
            result = import_file(
                Workspace.at(directory), file, format=format, skip_bad=skip_bad, observe=view.observe
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


@app.command(
    epilog=_EXAMPLE + "selfinstruct-hub export my-tasks alpaca_data.json --format alpaca_data",
    help="Write the accepted tasks of all complete rounds as a file of Self-Instruct, Alpaca or a trainer.\n\n"
    + _FORMATS_HELP,
)
def export(
    directory: Directory,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write; - for standard output.", show_default=False)
    ],
    format: Annotated[str, _choice(FORMAT_NAMES, metavar="NAME", help="What to write.", show_default=False)],
    seeds: Annotated[bool, typer.Option("--seeds", help="Write the seed tasks too, first.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    from selfinstruct_hub.exchange import STDOUT, export_file
    from selfinstruct_hub.show import counted
    from selfinstruct_hub.workspace import Workspace

    written = export_file(Workspace.at(directory), file, format, with_seeds=seeds, overwrite=force)
    said = f"wrote {counted(written.rows, 'row')} of {format}" + ("" if file == STDOUT else f" to {file}")
    if written.duplicates:
        said += f"; {counted(written.duplicates, 'repeated row')} left out"
    if written.without_instances:
        said += f"; {counted(written.without_instances, 'task')} without instances left out"
    if written.inexact:
        said += (
            f"; {counted(written.inexact, 'row does', 'rows do')} not read back to the same texts in this format "
            "(see README)"
        )
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


class _Output(io.FileIO):
    """Standard output where it is no terminal. A write that fails is the user's to mend: a full disk."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # What is left in the buffers goes nowhere, or Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if isinstance(error, BrokenPipeError):
                raise
            raise SelfInstructError(f"standard output cannot be written ({error.strerror})") from None


def main() -> None:
    """Entry point: errors that a user can mend become one line and an exit code."""
    try:
        _open_output()
        try:
            app()
        finally:
            sys.stdout.flush()
    except SelfInstructError as error:
        _warn(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of a pipe went away (`| head`)
        sys.exit(1)


def _open_output() -> None:
    """Makes standard output and error such that every text can be written, whatever the locale: UTF-8 into files
    and pipes, escapes for what a terminal has no characters for."""
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(os.devnull, "w"), write_through=True)
    if sys.stdout is None:
        raise SelfInstructError("standard output is closed; send it to a file, or to /dev/null")
    if not isinstance(sys.stdout, io.TextIOWrapper):
        return
    if sys.stdout.isatty():
        sys.stdout.reconfigure(errors="backslashreplace")
        return
    sys.stdout.flush()
    file = _Output(sys.stdout.fileno(), "wb", closefd=False)
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(file), encoding="utf-8", errors="backslashreplace")


def _say_how_it_ended(outcome: RoundOutcome, settings: Settings) -> None:
    """Says why a run ended where it did, and exits with the code for it. Nothing where it is simply done."""
    from selfinstruct_hub import grow
    from selfinstruct_hub.show import counted

    limit = outcome.limit
    done = f"{outcome.accepted:,} of {counted(outcome.round.wanted, 'task')} in round {outcome.round.number}"
    if limit is None:
        if outcome.detail:
            _warn(f"note: saturation: {outcome.detail}; the next grow stops at once")
        return
    if limit == grow.REFUSED:
        _warn(
            f"stopped: {outcome.detail}; {done}; everything is kept. Mend the endpoint, then the same command "
            "goes on"
        )
        raise typer.Exit(1)
    if limit == grow.SATURATION:
        _warn(
            f"stopped by saturation: {outcome.detail}. Everything is kept; other seeds, another model or "
            "another domain bring new tasks, and the limits are under `saturation` in selfinstruct.yaml"
        )
    elif limit == grow.BARREN:
        _warn(
            f"stopped: {counted(settings.max_barren_requests or 0, 'request')} in a row brought no accepted task; "
            f"{done}; everything is kept. Look at what was dropped above; another model, more seeds or other "
            "settings may help"
        )
    else:
        release = f", or with --tasks {outcome.accepted} to release the round as it is" if outcome.accepted else ""
        _warn(
            f"stopped by {limit} with {done}; everything is kept: start again with a higher {limit} to go on"
            f"{release}"
        )
    raise typer.Exit(STOPPED_EARLY)


def _seed_columns(given: Sequence[str]) -> dict[str, str | None]:
    """What --seed-column says, by name; None for `null`."""
    columns: dict[str, str | None] = {}
    for text in given:
        name, _, column = text.partition("=")
        if name not in SEED_COLUMNS or not column:
            raise UsageError(
                f"--seed-column: expected NAME=COLUMN with {_listed(SEED_COLUMNS)} for NAME, got {text!r}"
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


def _interrupted(directory: Path) -> NoReturn:
    _warn(f"interrupted; what was answered is kept: `selfinstruct-hub grow {directory}` goes on")
    raise typer.Exit(INTERRUPTED)


def _warn(text: str) -> None:
    typer.echo(text, err=True)


if __name__ == "__main__":
    main()
