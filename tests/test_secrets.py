"""Keys are planted wherever a run could pick them up, and looked for in everything that it leaves or says."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from selfinstruct_hub import config
from selfinstruct_hub.workspace import Workspace
from tests.support import tool
from tests.support.tgi import Server, running

API_KEY = "sk-planted-0123456789"
HUB_TOKEN = "hf_plantedplantedplanted"
PASSWORD = "hunter2planted"
PLANTED = (API_KEY, HUB_TOKEN, PASSWORD)


def echo(status: int) -> web.Response:
    """A server that puts into its words whatever it was sent, and more."""
    words = f"bad header Authorization: Bearer {API_KEY}, X-Token {HUB_TOKEN}, http://me:{PASSWORD}@gpu"
    return web.json_response({"error": words, "error_type": "validation"}, status=status)


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFINSTRUCT_API_KEY", API_KEY)
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)


@pytest.fixture
def server() -> Iterator[Server]:
    # The password is in no variable of ours: only an address could bring it.
    server = Server(api_key=API_KEY, template=("<s>user ", " assistant "), beginning="<s>")
    server.info = {**server.info, "model_id": f"me/model-{API_KEY}", "version": f"3.3 {HUB_TOKEN}"}
    with running(server):
        yield server


def said(*arguments: str) -> str:
    """Everything that a command says."""
    done = tool.run(*arguments, timeout=60)
    return done.stdout + done.stderr


def shown(*arguments: str) -> str:
    """The same on a terminal."""
    ours, its = pty.openpty()
    child = tool.start(arguments, (its, its, its))
    os.close(its)
    text = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not piece:
            break
        text += piece
    child.wait(60)
    os.close(ours)
    return text.decode("utf-8", "replace")


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def check(*texts: str | bytes, secrets: tuple[str, ...] = (API_KEY, HUB_TOKEN)) -> None:
    for text in texts:
        raw = text.encode() if isinstance(text, str) else text
        assert raw, "nothing was said at all"
        for secret in secrets:
            place = raw.find(secret.encode())
            assert place < 0, raw[max(0, place - 200) : place + 50]


def test_no_key_is_left_anywhere(server: Server, tmp_path: Path) -> None:
    server.fault = lambda n: {1: echo(429), 2: echo(500), 4: echo(424), 6: echo(503)}.get(n)
    space = tmp_path / "w"
    Workspace.create(space, config.Settings())
    grow = ("grow", str(space), "--tasks", "8", "--endpoint", server.url)
    texts = [
        said(*grow, "--tasks", "20"),
        said(*grow, "--log-json"),
        said(*grow, "--concurrency", "1"),
        shown(*grow),
    ]
    assert all("released as" in text or "release" in text for text in texts)
    texts += [said("status", str(space)), said("status", str(space), "--json")]
    texts += [said("doctor", str(space), "--endpoint", server.url)]
    texts += [said("export", str(space), str(tmp_path / "out.json"), "--format", "alpaca_data")]
    check(*texts, everything(tmp_path))
    assert {headers["Authorization"] for path, headers in server.received if path == "/generate"} == {
        f"Bearer {API_KEY}"
    }


@pytest.mark.parametrize("status", [401, 422, 502])
def test_no_key_is_in_an_error(server: Server, tmp_path: Path, status: int) -> None:
    server.fault = lambda n: echo(status)
    space = tmp_path / "w"
    Workspace.create(space, config.Settings(endpoint=config.EndpointSettings(attempts=1)))
    grow = ("grow", str(space), "--tasks", "5", "--endpoint", server.url)
    texts = [said(*grow), said(*grow, "--log-json"), said("doctor", "--endpoint", server.url)]
    assert all(str(status) in text for text in texts)
    check(*texts, everything(tmp_path))


@pytest.mark.parametrize("address", ["http://me:{}@127.0.0.1:9", "http://127.0.0.1:9/?token={}", "http://x/#{}"])
def test_an_address_with_a_secret_is_refused_without_repeating_it(tmp_path: Path, address: str) -> None:
    url = address.format(PASSWORD)
    space = tmp_path / "w"
    Workspace.create(space, config.Settings())
    texts = [said("grow", str(space), "--endpoint", url, "--log-json"), said("doctor", "--endpoint", url)]
    settings = (space / config.FILE_NAME).read_text()
    (space / config.FILE_NAME).write_text(settings.replace("  url: null", f"  url: '{url}'"))
    texts += [said("status", str(space)), said("doctor", str(space))]
    (space / config.FILE_NAME).write_text(settings.replace("  url: null", f"  url: ['http://a:1', '{url}']"))
    texts.append(said("grow", str(space)))
    check(*texts, secrets=PLANTED)
    assert all("SELFINSTRUCT_API_KEY" in text or "plain address" in text for text in texts)


def test_a_redirection_does_not_take_the_key_along(server: Server, tmp_path: Path) -> None:
    with running(Server()) as elsewhere:
        location = f"{elsewhere.url}/generate?token={PASSWORD}"
        server.fault = lambda n: web.Response(status=307, headers={"Location": location})
        space = tmp_path / "w"
        Workspace.create(space, config.Settings())
        text = said("grow", str(space), "--tasks", "5", "--endpoint", server.url)
        assert f"redirects to {elsewhere.url}/generate; give that address" in text
        check(text, everything(tmp_path), secrets=PLANTED)
        assert elsewhere.received == []


def test_a_hub_token_is_sent_to_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELFINSTRUCT_API_KEY")
    with running(Server()) as server:
        for api in ("tgi", "openai", "auto"):
            space = tmp_path / api
            Workspace.create(space, config.Settings())
            said("grow", str(space), "--tasks", "5", "--endpoint", server.url, "--api", api)
        assert {path for path, _ in server.received} >= {"/info", "/generate", "/v1/chat/completions"}
        assert not any(HUB_TOKEN in value for _, headers in server.received for value in headers.values())
