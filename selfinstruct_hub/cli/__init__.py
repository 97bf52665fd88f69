"""The command line: parse, call one function, print. No rules here.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from selfinstruct_hub import __version__
from selfinstruct_hub.cli.choices import app
from selfinstruct_hub.cli.output import main

# Each adds its commands to `app`, in the order of the help.
# isort: off
from selfinstruct_hub.cli import growing  # noqa: F401
from selfinstruct_hub.cli import files  # noqa: F401
from selfinstruct_hub.cli import regenerating  # noqa: F401
from selfinstruct_hub.cli import reviewing  # noqa: F401
from selfinstruct_hub.cli import replaying  # noqa: F401
from selfinstruct_hub.cli import publishing  # noqa: F401
from selfinstruct_hub.cli import releases  # noqa: F401
from selfinstruct_hub.cli import upkeep  # noqa: F401
from selfinstruct_hub.cli import dedup  # noqa: F401
from selfinstruct_hub.cli import reports  # noqa: F401
from selfinstruct_hub.cli import serving  # noqa: F401
# isort: on

__all__ = ["app", "main"]


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
