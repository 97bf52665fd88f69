"""What several commands share: the choices that there are, the root of the commands, a line on standard error.

Known here without importing what has them, so that `--help` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from selfinstruct_hub.errors import UsageError

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
EXAMPLE = "[bold]Example:[/bold] "


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


def listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def warn(text: str) -> None:
    typer.echo(text, err=True)
