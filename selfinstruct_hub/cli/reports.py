"""`report`: a release's card as one page for a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfinstruct_hub.cli.choices import EXAMPLE, app


@app.command(
    epilog=EXAMPLE + "selfinstruct-hub report my-tasks --out my-tasks.html",
    help="Write a release's card as one HTML page: figures, pictures, samples, nothing loaded from elsewhere.\n\n"
    "DIR is a workspace or a release folder. Pictures need matplotlib (the extra `report`), and the picture of "
    "verbs spaCy with a model of the language (the extra `diversity`); without them the page says so.",
)
def report(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A workspace, or a release's folder.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the page goes.", show_default="NAME-VERSION.html where you are"),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            metavar="TAG", help="Which release of the workspace, such as v1.1.0.", show_default="the newest"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    from selfinstruct_hub.release.page import report as page

    release = page.release_of(directory, version)
    whole = release.resolve()
    name = whole.name if release == directory else f"{directory.resolve().name}-{whole.name}"
    target = out or Path(f"{name}.html")
    page.write(release, target, overwrite=force)
    typer.echo(f"wrote {target}")
