"""`gc`: what a workspace can do without."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from selfinstruct_hub.cli.choices import EXAMPLE, Directory, app, span


@app.command(
    epilog=EXAMPLE + "selfinstruct-hub gc my-tasks --rounds 1-3 --dry-run",
    help="Drop prompts and raw answers of frozen rounds, and give their space back to the disk.\n\n"
    "Lost by it: these rounds cannot be replayed or reproduced any more. Rows, verdicts, counts, costs and every "
    "release stay as they are, and a release that is built again is the same to the byte.",
)
def gc(
    directory: Directory,
    rounds: Annotated[
        str | None,
        typer.Option(metavar="A-B", help="Which rounds, such as 1-3 or 2.", show_default="all that are frozen"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be dropped, and drop nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    from selfinstruct_hub.show.upkeep import print_collected
    from selfinstruct_hub.upkeep import collect
    from selfinstruct_hub.workspace import Workspace

    found = collect(
        Workspace.at(directory), rounds=span("--rounds", rounds) if rounds is not None else None, dry_run=dry_run
    )
    if as_json:
        typer.echo(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
    else:
        print_collected(found)
