"""`replay` and `reproduce`: stored answers judged again, by today's rules or by those that they were judged by."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfinstruct_hub.cli.choices import EXAMPLE, INTERRUPTED, Directory, app, fail, span, warn

if TYPE_CHECKING:
    from selfinstruct_hub.replay import Replayed, RoundChanges


@app.command(
    epilog=EXAMPLE + "selfinstruct-hub replay my-tasks --dry-run",
    help="Judge the stored answers again by today's parsers and settings, without a call; what changes becomes a "
    "patch version.\n\n"
    "What decided the requests stays as each round had it. Where nothing changes, no version is made.",
)
def replay(
    directory: Directory,
    rounds: Annotated[
        str | None, typer.Option(metavar="A-B", help="Only these rounds.", show_default="all")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute", help="Compare everything again; trust no stored neighbour. The result is the same."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What changes as one JSON object.")] = False,
) -> None:
    chosen = span("--rounds", rounds) if rounds is not None else None
    from selfinstruct_hub.replay import Hooks
    from selfinstruct_hub.replay import replay as replayed
    from selfinstruct_hub.show import CountView
    from selfinstruct_hub.workspace import Workspace

    workspace = Workspace.at(directory)
    try:
        with CountView("requests judged again") as view:
            found = replayed(
                workspace,
                workspace.settings(),
                rounds=chosen,
                dry_run=dry_run,
                recompute=recompute,
                hooks=Hooks(observe=view.observe, notice=warn),
            )
    except KeyboardInterrupt:
        warn("interrupted; nothing was changed, and the same command begins anew")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
    else:
        typer.echo("\n".join(_lines(found, directory)))


def _lines(found: Replayed, directory: Path) -> list[str]:
    """What changed, for a person: a line for each round, and what became of whom."""
    from selfinstruct_hub.figures import counted

    lines = [line for one in found.rounds for line in _round_lines(one, directory)]
    answers = f"{counted(found.completions, 'stored answer')}, {found.seconds:.1f} s"
    if found.version is None:
        return [*lines, f"nothing changes, so there is no new version ({answers})"]
    if found.dry_run:
        return [*lines, f"would make {found.version}; nothing was changed ({answers})"]
    if found.release is None:  # no row is left
        return [*lines, f"{found.version} has no row, so there is nothing to publish ({answers})"]
    return [*lines, f"made {found.release} ({answers})"]


def _round_lines(one: RoundChanges, directory: Path) -> list[str]:
    from selfinstruct_hub.figures import counted

    if not one.changed:
        return [f"round {one.round}: as it was, {counted(one.same, 'row')}", *_short_lines(one, directory)]
    counts = {"won": one.won, "lost": one.lost, "replaced": one.replaced, "as they were": one.same}
    lines = [f"round {one.round}: rows {', '.join(f'{name} {count:,}' for name, count in counts.items())}"]
    for (before, after), number in one.ordered():
        lines.append(f"  {before} -> {after}: {counted(number, 'candidate')}")
        for example in one.examples:
            if (example.before, example.after) == (before, after):
                detail = f" ({example.detail})" if example.detail else ""
                lines.append(f"    request {example.request}: {example.instruction[:90]}{detail}")
    return [*lines, *_short_lines(one, directory)]


def _short_lines(one: RoundChanges, directory: Path) -> list[str]:
    from selfinstruct_hub.figures import counted

    if not one.short:
        return []
    return [
        f"round {one.round} is {counted(one.short, 'task')} short of {one.wanted:,}: "
        f"`{shlex.join(['selfinstruct-hub', 'grow', str(directory), '--top-up'])}` fills it"
    ]


@app.command(
    epilog=EXAMPLE + "selfinstruct-hub reproduce my-tasks/releases/v1.0.0",
    help="Judge a release's stored answers again by the settings that they were judged by, build it anew beside, "
    "and compare every verdict and every file.\n\n"
    "The first thing that differs is told in one line, with exit code 1. Nothing is changed.",
)
def reproduce(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A release of a workspace.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="What was found as one JSON object.")] = False,
) -> None:
    from selfinstruct_hub.reproduce import Hooks
    from selfinstruct_hub.reproduce import reproduce as checked
    from selfinstruct_hub.show import CountView

    try:
        with CountView("verdicts given again") as view:
            found = checked(folder, Hooks(observe=view.observe))
    except KeyboardInterrupt:
        warn("interrupted; nothing was changed")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
    else:
        for part in found.parts:
            mark = "" if part.checked else "not checked: "
            typer.echo(f"{part.name}: {mark}{part.said}")
        if found.note:
            typer.echo(found.note)
        if found.differs is None:
            left = [part.name for part in found.parts if not part.checked]
            whole = f", but for {', '.join(left)}" if left else ""
            typer.echo(f"{folder}: {found.version} is what its stored answers give{whole}")
    if found.differs is not None:
        fail(found.differs, 1)
        raise typer.Exit(1)
