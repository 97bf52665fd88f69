"""`import` and `export`: other projects' files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfinstruct_hub.cli.choices import (
    EXAMPLE,
    FORMAT_NAMES,
    FORMATS_HELP,
    INTERRUPTED,
    Directory,
    app,
    choice,
    warn,
)


@app.command(
    name="import",
    epilog=EXAMPLE + "selfinstruct-hub import my-tasks alpaca_data.json",
    help="Add the tasks of a file of Self-Instruct, Alpaca or a trainer, as a round of its own.\n\n"
    "Every row passes the rules and the novelty gate, like what a model writes; the verdicts are printed. "
    "Stopped before it is through, it adds nothing.\n\n" + FORMATS_HELP,
)
def import_(
    directory: Directory,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL or JSON.", show_default=False)],
    format: Annotated[
        str, choice(("auto", *FORMAT_NAMES), metavar="NAME|auto", help="What the file is; auto finds out.")
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
        warn("interrupted; nothing was imported")
        raise typer.Exit(INTERRUPTED) from None
    for said in result.bad:
        warn(f"left out: {said}")
    print_import(result)
    if not result.tasks:
        warn("error: no row passed, so nothing was imported; the reasons are above")
        raise typer.Exit(1)


@app.command(
    epilog=EXAMPLE + "selfinstruct-hub export my-tasks alpaca_data.json --format alpaca_data",
    help="Write the accepted tasks of all complete rounds as a file of Self-Instruct, Alpaca or a trainer.\n\n"
    + FORMATS_HELP,
)
def export(
    directory: Directory,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write; - for standard output.", show_default=False)
    ],
    format: Annotated[str, choice(FORMAT_NAMES, metavar="NAME", help="What to write.", show_default=False)],
    seeds: Annotated[bool, typer.Option("--seeds", help="Write the seed tasks too, first.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    from selfinstruct_hub.exchange import STDOUT, export_file
    from selfinstruct_hub.figures import counted
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
    warn(said)
