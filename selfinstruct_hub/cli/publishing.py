"""`push`, `pull` and `diff`: published versions."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from selfinstruct_hub.cli.choices import EXAMPLE, INTERRUPTED, Directory, app, warn

T = TypeVar("T")
_AsJson = Annotated[bool, typer.Option("--json", help="As one JSON object.")]


@app.command(epilog=EXAMPLE + "selfinstruct-hub push my-tasks --repo my-org/my-tasks")
def push(
    directory: Directory,
    repo: Annotated[
        str,
        typer.Option(
            metavar="ORG/NAME", help="The dataset on the Hub; made if it is not there.", show_default=False
        ),
    ],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Who may see a dataset that is made.", show_default="private"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
    create_pr: Annotated[
        bool,
        typer.Option(
            "--create-pr", help="Open a pull request with the next release; once it is merged, push again tags it."
        ),
    ] = False,
    as_json: _AsJson = False,
) -> None:
    """Publish every release of DIR that is not published yet: one commit and one tag each.

    The token is HF_TOKEN or the stored login. Stopped anywhere, the same command goes on.
    """
    from selfinstruct_hub.hub.push import push as push_releases
    from selfinstruct_hub.hub.steps import Watch
    from selfinstruct_hub.show.publishing import TransferView, print_push

    try:
        with TransferView() as view:
            watch = Watch(view.say, view.moved)
            done = _beside(
                lambda: push_releases(
                    directory, repo, private=private, dry_run=dry_run, create_pr=create_pr, watch=watch
                )
            )
    except KeyboardInterrupt:
        warn("interrupted; the same command goes on: what has its commit is not sent again")
        sys.stderr.flush()
        # Python would wait for the client's uploads, which may take as long as the whole push. Nothing here is
        # half written: a push only reads.
        os._exit(INTERRUPTED)
    print_push(done, as_json=as_json)


def _beside(work: Callable[[], T]) -> T:
    """What `work` returns or raises, in a thread of its own: where Ctrl-C comes, this one is not within the
    client, which waits for the threads of its uploads before it lets anything out."""
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        # Not without an end: a signal that another thread is given does not wake this one.
        thread.join(0.1)
    return found.result()


@app.command(epilog=EXAMPLE + "selfinstruct-hub pull my-org/my-tasks my-tasks --revision v1.1.0")
def pull(
    name: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="A dataset that `push` made.", show_default=False)
    ],
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="The workspace to make: a new or empty directory.", show_default=False),
    ],
    revision: Annotated[
        str | None, typer.Option(metavar="TAG", help="The version.", show_default="the newest one")
    ] = None,
) -> None:
    """Make a workspace out of a published version, ready to grow on.

    Its release is there byte for byte, with every task, verdict and seed. The texts of prompts and answers were
    never published and are not there.
    """
    from selfinstruct_hub.hub.pull import pull as pull_version
    from selfinstruct_hub.hub.steps import Watch
    from selfinstruct_hub.show.publishing import TransferView, print_pull

    try:
        with TransferView() as view:
            found = pull_version(name, directory, revision=revision, watch=Watch(view.say, view.moved))
    except KeyboardInterrupt:
        warn("interrupted; the same command goes on with the files that have come")
        raise typer.Exit(INTERRUPTED) from None
    print_pull(found, directory)


@app.command(epilog=EXAMPLE + "selfinstruct-hub diff my-tasks v1.0.0 v1.1.0")
def diff(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The workspace, or a release folder.", show_default=False)
    ],
    first: Annotated[
        str, typer.Argument(metavar="V1", help="The earlier version, or the other folder.", show_default=False)
    ],
    second: Annotated[
        str | None,
        typer.Argument(metavar="[V2]", help="The later version; none for two folders.", show_default=False),
    ] = None,
    as_json: _AsJson = False,
) -> None:
    """Show which rows were added, removed or changed between two versions, round by round.

    A changed row has the same instruction with another output. Takes DIR and two versions, or two release folders.
    """
    from selfinstruct_hub.difference import difference, sides
    from selfinstruct_hub.show.publishing import print_difference

    print_difference(difference(*sides(directory, first, second)), as_json=as_json)
