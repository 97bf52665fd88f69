"""The header of a GGUF file: its metadata, and how many bytes the file must have at least.

Reads nothing but the header, and knows nothing of models: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# The longest string of a real header is a chat template; more than this is a damaged length field.
_LONGEST_STRING = 16 * 1024 * 1024


@dataclass(frozen=True)
class Header:
    """`metadata` holds scalars and strings only; `least_size` is where the last tensor starts, in bytes."""

    metadata: dict[str, str | int | float | bool]
    least_size: int


def read_header(path: Path) -> Header:
    """Raises ValueError, in words, for a file that is no GGUF or whose header is cut short."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError("it does not start with GGUF")
        version = _number(file, "I")
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version} is not supported")
        tensors, entries = _number(file, "Q"), _number(file, "Q")
        metadata: dict[str, str | int | float | bool] = {}
        for _ in range(entries):
            key, kind = _string(file), _number(file, "I")
            if kind == _ARRAY:
                _skip_array(file)
            else:
                metadata[key] = _string(file) if kind == _STRING else _scalar(file, kind)
        last = 0
        for _ in range(tensors):
            _string(file)
            dimensions = _number(file, "I")
            _read(file, 8 * dimensions + 4)
            last = max(last, _number(file, "Q"))
        return Header(metadata, file.tell() + last + 1)


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it is cut short")
    return data


def _number(file: BinaryIO, code: str) -> int:
    (value,) = struct.unpack("<" + code, _read(file, struct.calcsize("<" + code)))
    return int(value)


def _scalar(file: BinaryIO, kind: int) -> int | float | bool:
    if kind not in _SCALARS:
        raise ValueError(f"its header is damaged (value type {kind})")
    code = "<" + _SCALARS[kind]
    value: int | float | bool = struct.unpack(code, _read(file, struct.calcsize(code)))[0]
    return value


def _string(file: BinaryIO) -> str:
    length = _number(file, "Q")
    if length > _LONGEST_STRING:
        raise ValueError("its header is damaged (a string of impossible length)")
    return _read(file, length).decode("utf-8", "replace")


def _skip_array(file: BinaryIO) -> None:
    kind, count = _number(file, "I"), _number(file, "Q")
    if kind == _STRING:
        for _ in range(count):
            _string(file)
    elif kind == _ARRAY:
        for _ in range(count):
            _skip_array(file)
    elif kind in _SCALARS:
        _read(file, min(count * struct.calcsize("<" + _SCALARS[kind]), 2**40))
    else:
        raise ValueError(f"its header is damaged (array of type {kind})")
