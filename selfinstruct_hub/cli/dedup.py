"""`dedup`: anybody's rows through the novelty gate."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfinstruct_hub.cli.choices import EXAMPLE, INTERRUPTED, app, warn
from selfinstruct_hub.errors import UsageError

if TYPE_CHECKING:
    from selfinstruct_hub.languages import Language


def _threshold(text: str) -> float:
    """What --threshold takes."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise UsageError(f"--threshold: expected a number from 0 to below 1, such as 0.7, got {text!r}")
    return value


@app.command(
    epilog=EXAMPLE + "selfinstruct-hub dedup train.jsonl --against mt_bench.jsonl --out clean.jsonl",
    help="Drop near-duplicates from any file of instructions, and what is too near to other files.\n\n"
    "FILE is JSON Lines, a JSON array, CSV, TSV, Parquet, or a folder of `datasets`. Of rows whose instructions "
    "score above the threshold with one another (ROUGE-L F1) the first stays. What stays is written as it was, "
    "in the same format; what goes is written to OUT.dropped.jsonl with its reason, its neighbour and the score.",
)
def dedup(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="File or dataset folder; - for JSON on standard input.", show_default=False
        ),
    ],
    threshold: Annotated[
        float,
        typer.Option(parser=_threshold, metavar="SCORE", help="ROUGE-L F1 above which a row goes, 0 to 1."),
    ] = 0.7,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A file whose texts no row may be near to, such as a benchmark; once for each.",
            show_default=False,
        ),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The column with the instructions.",
            show_default="instruction, question, prompt, ...: the first that FILE has",
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            help="ISO 639 code; warns where most instructions show nothing of its script. Changes no verdict.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Where the kept rows go; - for standard output.",
            show_default="NAME.kept.EXT beside FILE",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Compare in N processes of a Ray cluster: for more rows than one machine's memory holds.",
            show_default="with --ray, as many as processors are free",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The cluster: local starts one here; auto, HOST:PORT or ray://HOST:PORT joins one.",
            show_default="with --workers, local",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out rows that are broken or have no instruction.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON object.")] = False,
) -> None:
    named = _language(language) if language is not None else None
    from selfinstruct_hub import dedup as deduplication
    from selfinstruct_hub.datafiles.outputs import is_pipe
    from selfinstruct_hub.figures import counted
    from selfinstruct_hub.show import DedupView, dedup_json, dedup_lines

    try:
        with ExitStack() as stack:
            gate: Callable[[float], deduplication.Gate] = deduplication.novelty_gate
            if workers is not None or ray is not None:
                gate = stack.enter_context(deduplication.cluster_gates(workers, ray))
            view = stack.enter_context(DedupView())
            result = deduplication.dedup(
                file,
                out=out,
                against=against or (),
                threshold=threshold,
                column=column,
                language=named,
                overwrite=force,
                skip_bad=skip_bad,
                gate=gate,
                observe=view.observe,
            )
    except KeyboardInterrupt:
        warn("interrupted; nothing was written")
        raise typer.Exit(INTERRUPTED) from None
    for said in result.bad_rows:
        warn(f"left out: {said}")
    if more := result.bad - len(result.bad_rows):
        warn(f"left out: {counted(more, 'more row')}")
    if named is not None and 2 * result.foreign > result.rows - result.bad:
        warn(
            f"warning: {result.foreign:,} of {counted(result.rows - result.bad, 'instruction')} in "
            f"`{result.column}` show nothing of the script of {named.name}; is it the right column and language?"
        )
    # Where the rows go to standard output, they are alone there.
    aside = is_pipe(result.out)
    if as_json:
        import json

        typer.echo(json.dumps(dedup_json(result), ensure_ascii=False, indent=2), err=aside)
    else:
        typer.echo("\n".join(dedup_lines(result)), err=aside)


def _language(code: str) -> Language:
    from selfinstruct_hub import languages
    from selfinstruct_hub.errors import ConfigError

    try:
        return languages.of(code)
    except ConfigError:
        raise UsageError(
            f"--language: expected one of {', '.join(languages.known())}, got {code!r}; it decides only "
            "about a warning"
        ) from None
