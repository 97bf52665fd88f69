"""`review`: rows into a file that people edit, and their decisions back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfinstruct_hub.cli.choices import EXAMPLE, Directory, app, choice, span, warn
from selfinstruct_hub.errors import UsageError

if TYPE_CHECKING:
    from selfinstruct_hub.review import Reviewed

_KINDS = ("accepted", "rejected", "all")


@app.command(
    epilog=EXAMPLE + "selfinstruct-hub review my-tasks --export rows.csv --sample 200",
    help="Write rows to a file that people edit (--export), and take their decisions back (--apply).\n\n"
    "In the file, `verdict` is keep or reject for a row, accept for what was rejected; instruction, input and "
    "output may be corrected; three columns take yes or no: valid_task, appropriate_input, acceptable_output. One "
    "--apply is one patch version, and it is made whole or not at all.",
)
def review(
    directory: Directory,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write FILE: .csv for a spreadsheet, or .jsonl.", show_default=False),
    ] = None,
    apply: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take FILE back as a new version.", show_default=False)
    ] = None,
    rows: Annotated[
        str | None,
        choice(
            _KINDS,
            metavar="accepted|rejected|all",
            help="Rows, what was dropped, or both.",
            show_default="accepted, rejected with --reason",
        ),
    ] = None,
    rounds: Annotated[
        str | None, typer.Option(metavar="A-B", help="Of these rounds; one number for one.", show_default="all")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="So many lines by chance.", show_default="all")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Decides which --sample takes.", show_default="the workspace's"),
    ] = None,
    reason: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only what was dropped for it. Once for each.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --export.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check what --apply would do, and do nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What --apply did as one JSON object.")] = False,
) -> None:
    if (export is None) == (apply is None):
        raise UsageError("review: give --export FILE or --apply FILE, and not both")
    from selfinstruct_hub import review as reviewing
    from selfinstruct_hub.figures import counted
    from selfinstruct_hub.workspace import Workspace

    workspace = Workspace.at(directory)
    if apply is not None:
        if rows or rounds or sample or seed is not None or reason or force:
            raise UsageError("--rows, --rounds, --sample, --seed, --reason and --force belong to --export")
        result = reviewing.apply_file(workspace, apply, dry_run=dry_run)
        if as_json:
            typer.echo(json.dumps(result.as_dict(), ensure_ascii=False, indent=2))
        else:
            _print(result, directory)
        return
    assert export is not None
    if dry_run or as_json:
        raise UsageError("--dry-run and --json belong to --apply")
    if reason and rows == "accepted":
        raise UsageError("--reason is about what was dropped; give it with --rows rejected or all")
    between = span("--rounds", rounds) if rounds is not None else None
    written = reviewing.export_file(
        workspace,
        export,
        rows=rows or ("rejected" if reason else "accepted"),
        rounds=(between[0], between[-1]) if between is not None else None,
        sample=sample,
        seed=seed,
        reasons=reason or (),
        overwrite=force,
    )
    of = f" of {written.found:,}" if written.found != written.lines else ""
    warn(f"wrote {counted(written.lines, 'line')}{of} to {export}")
    if written.long:
        warn(
            f"note: {counted(written.long, 'line')} with a text that Excel cuts at 32,767 characters; LibreOffice "
            "does not, and .jsonl has no bound"
        )
    warn(f"next: edit it, then `selfinstruct-hub review {directory} --apply {export}`")


def _print(result: Reviewed, directory: Path) -> None:
    from selfinstruct_hub.figures import counted

    stood = f" ({counted(result.done, 'line says', 'lines say')} what stands already)" if result.done else ""
    if not result.changed:
        typer.echo(f"nothing to do: {counted(result.lines, 'line')} read, and nothing is decided anew{stood}")
        return
    parts = [
        f"{count:,} {what}"
        for count, what in (
            (result.rejected, "rejected"),
            (result.corrected, "corrected"),
            (result.won, "won"),
            (result.answered, "marked"),
        )
        if count
    ]
    version = "dry run, nothing changed" if result.dry_run else result.version
    typer.echo(f"{version}: rows {', '.join(parts)}; {counted(result.lines, 'line')} read{stood}")
    if result.release is not None:
        typer.echo(f"released: {result.release}")
    elif not result.dry_run:
        warn("note: no row is left, so there is nothing to release")
    for number, missing in result.short.items():
        then = "would have" if result.dry_run else "has"
        warn(
            f"note: round {number} {then} {counted(missing, 'task')} fewer than were wanted; "
            f"`selfinstruct-hub grow {directory} --top-up` fills it"
        )
