"""`serve` and `doctor`: the embedded engine as a server, and what is wrong with an endpoint or a workspace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from selfinstruct_hub.cli.choices import (
    EXAMPLE,
    Api,
    Model,
    app,
)


@app.command(epilog=EXAMPLE + "selfinstruct-hub serve --port 8080")
def serve(
    model: Annotated[
        str | None,
        typer.Option(metavar="PATH|ID", help="GGUF file, OpenVINO folder or Hub id.", show_default="SmolLM2-135M"),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any.")] = 8080,
) -> None:
    """Serve the embedded engine in text-generation-inference's protocol, until Ctrl-C.

    With SELFINSTRUCT_API_KEY set, clients must send it as a bearer token.
    """
    from selfinstruct_hub.endpoint.connect import API_KEY_VARIABLE
    from selfinstruct_hub.local.serve import serve as run_server

    run_server(model, host, port, api_key=os.environ.get(API_KEY_VARIABLE))


@app.command(epilog=EXAMPLE + "selfinstruct-hub doctor my-tasks --endpoint http://gpu:8080")
def doctor(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A workspace to look at.", show_default=False)
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="Where to ask; once for each.", show_default="the workspace's, or the engine"
        ),
    ] = None,
    api: Api = None,
    model: Model = None,
) -> None:
    """Check workspace, disk, endpoint, engine and Hub, and say what to do.

    An endpoint is asked what it is and what it takes, and for four short answers.
    """
    from selfinstruct_hub.doctor import Finding, examine
    from selfinstruct_hub.show import print_finding

    failed = False

    def tell(finding: Finding) -> None:
        nonlocal failed
        print_finding(finding)
        failed = failed or finding.ok is False

    examine(directory, tell, endpoints=endpoint or (), api=api, model=model)
    if failed:
        raise typer.Exit(1)
