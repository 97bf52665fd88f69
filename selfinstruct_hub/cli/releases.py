"""`verify`: whether a release is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from selfinstruct_hub.cli.choices import EXAMPLE, app


@app.command(
    epilog=EXAMPLE + "selfinstruct-hub verify my-tasks/releases/v1.0.0",
    help="Check a release: every file's size and digest, every count, the card, and that `datasets` loads it.\n\n"
    "The first thing that is not as it was released is told in one line, with exit code 1. Nothing is changed.",
)
def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A release, as `grow` or `pull` left it.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="What was found as one JSON object.")] = False,
) -> None:
    from selfinstruct_hub.figures import counted
    from selfinstruct_hub.release.verify import check

    found = check(folder)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
        return
    configs = ", ".join(f"{name} {rows:,}" for name, rows in found.rows.items())
    size = f"{counted(found.files, 'file')}, {found.bytes / 1e6:,.1f} MB"
    typer.echo(f"{folder}: {found.version} is whole: {size}; rows: {configs}")
