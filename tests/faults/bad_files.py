"""Model folders and journals that are spoilt on purpose."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.study.journal.journal import Journal

Spoil = Callable[[Path], list[str]]  # changes files in a home folder; the command's words


@dataclass(frozen=True)
class BadInput:
    """One bad input: its name, and what makes it."""

    name: str
    spoil: Spoil


# -- model folders ---------------------------------------------------------------------------------


def recipe_with(**changes: Any) -> dict[str, Any]:
    return {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 0.5}}, {"model": "b"}],
        "parameters": {"weight": 0.5},
        "dtype": "float32",
        **changes,
    }


def recipe_file(document: dict[str, Any]) -> Spoil:
    def spoil(home: Path) -> list[str]:
        def placed(value: Any, key: str = "") -> Any:
            if isinstance(value, dict):
                return {name: placed(item, name) for name, item in value.items()}
            if isinstance(value, list):
                return [placed(item, key) for item in value]
            known = value in ("a", "b", "base") and key in ("model", "base_model", "models")
            return str(home / "zoo" / value) if known else value

        file = home / "recipe.yaml"
        file.write_text(json.dumps(placed(document)))
        return ["build", str(file), str(home / "out")]

    return spoil


CONFIGS: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "a word": b'"x"',
    "cut": b'{"a": ',
    "deep": b"[" * 100_000,
    "deep maps": b'{"a":' * 50_000,
    "not utf-8": b'{"a": "\xff"}',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "twice": b'{"a": 1, "a": 2}',
    "large": b'{"a": "' + b"x" * (5 * 2**20) + b'"}',
    "many parts": b"[" + b"[]," * 1_200_000 + b"1]",
    "pickle": b"\x80\x04\x95\x00",
    "zip": b"PK\x03\x04" * 10,
    "huge number": b'{"num_hidden_layers": ' + b"9" * 5000 + b"}",
}
SHARDS: list[Any] = [
    "../outside/secret.safetensors",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b.safetensors",
    "x.bin",
    "x.safetensors\x00",
    "~/x.safetensors",
    "missing.safetensors",
    "C:\\x.safetensors",
    "model.safetensors/../../x.safetensors",
    3,
    None,
    [],
    {},
    True,
    "x" * 5000 + ".safetensors",
    "link.safetensors",
]
INDEXES: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "no map": b"{}",
    "map is a list": b'{"weight_map": []}',
    "map is null": b'{"weight_map": null}',
    "map is a word": b'{"weight_map": "x"}',
    "cut": b'{"weight_map": {',
    "deep": b"{" * 10_000,
    "twice": b'{"weight_map": {}, "weight_map": {}}',
}
ENTRY: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS: dict[str, Any] = {
    "unknown dtype": {"x": {**ENTRY, "dtype": "F13"}},
    "dtype is a number": {"x": {**ENTRY, "dtype": 3}},
    "no dtype": {"x": {"shape": [2], "data_offsets": [0, 8]}},
    "no shape": {"x": {"dtype": "F32", "data_offsets": [0, 8]}},
    "no offsets": {"x": {"dtype": "F32", "shape": [2]}},
    "shape too large": {"x": {**ENTRY, "shape": [3]}},
    "shape negative": {"x": {**ENTRY, "shape": [-2]}},
    "shape two negatives": {"x": {**ENTRY, "shape": [-1, -2]}},
    "shape overflows": {"x": {**ENTRY, "shape": [2**40, 2**40]}},
    "shape is a float": {"x": {**ENTRY, "shape": [2.0]}},
    "shape is text": {"x": {**ENTRY, "shape": "2"}},
    "shape of 17 axes": {"x": {**ENTRY, "shape": [1] * 16 + [2]}},
    "offsets reversed": {"x": {**ENTRY, "data_offsets": [8, 0]}},
    "offsets beyond": {"x": {**ENTRY, "data_offsets": [0, 2**62]}},
    "offsets negative": {"x": {**ENTRY, "data_offsets": [-8, 0]}},
    "offsets are text": {"x": {**ENTRY, "data_offsets": ["0", "8"]}},
    "one offset": {"x": {**ENTRY, "data_offsets": [0]}},
    "a hole": {"x": {**ENTRY, "data_offsets": [4, 12]}},
    "overlap": {"x": ENTRY, "y": ENTRY},
    "entry is null": {"x": None},
    "entry is a list": {"x": []},
    "name of 600 bytes": {"x" * 600: ENTRY},
    "name is empty": {"": ENTRY},
    "name with a newline": {"a\nb": ENTRY},
    "metadata is a list": {"__metadata__": [], "x": ENTRY},
    "metadata of numbers": {"__metadata__": {"a": 1}, "x": ENTRY},
    "no tensors": {},
    "a list": [1],
    "other tensors": {"x": ENTRY},
    "100,001 tensors": {f"t{i}": {**ENTRY, "data_offsets": [0, 0]} for i in range(100_001)},
}
WEIGHTS: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "eight zeros": b"\0" * 8,
    "length beyond": struct.pack("<Q", 10**6) + b"{}",
    "length 2**63": struct.pack("<Q", 2**63) + b"{}",
    "length all ones": b"\xff" * 8 + b"{}",
    "no JSON": struct.pack("<Q", 10) + b"0123456789"[:5] * 2,
    "not utf-8": struct.pack("<Q", 4) + b'{"\xff"',
    "deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "pickle": b"\x80\x04\x95" * 20,
    "zip": b"PK\x03\x04" * 100,
    "gguf": b"GGUF" + b"\3\0\0\0" * 10,
    "html": b"<html>not found</html>" * 10,
    "git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}
TOKENIZERS: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "no model": b"{}",
    "model is a number": b'{"model": 1}',
    "vocabulary is a number": b'{"model": {"vocab": 3}}',
    "vocabulary of lists": b'{"model": {"vocab": [[]]}}',
    "ids are lists": b'{"model": {"vocab": {"a": [1]}}}',
    "deep": b"[" * 50_000,
    "twice": b'{"model": 1, "model": 2}',
}


def models() -> Iterator[BadInput]:
    for name, data in CONFIGS.items():
        yield BadInput(f"config.json: {name}", _in_model("config.json", data))
    for name, data in TOKENIZERS.items():
        yield BadInput(f"tokenizer.json: {name}", _in_model("tokenizer.json", data))
    for name, data in WEIGHTS.items():
        yield BadInput(f"weights: {name}", _in_model("model.safetensors", data))
    for name, header in HEADERS.items():
        text = json.dumps(header).encode()
        data = struct.pack("<Q", len(text)) + text + bytes(8)
        yield BadInput(f"header: {name}", _in_model("model.safetensors", data))
    for name, data in INDEXES.items():
        yield BadInput(f"index: {name}", _in_model("model.safetensors.index.json", data))
    for shard in SHARDS:
        data = json.dumps({"weight_map": {"model.norm.weight": shard}}).encode()
        yield BadInput(
            f"index: shard {str(shard)[:60]!r}", _in_model("model.safetensors.index.json", data)
        )
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        yield BadInput(f"link: {name}", _linked(name))
    for name in ("pytorch_model.bin", "model.pt", "model.gguf"):
        yield BadInput(f"weights: only {name}", _only(name))
    for name in ("config.json", "model.safetensors"):
        yield BadInput(f"a folder: {name}", _special(name, Path.mkdir))
        yield BadInput(f"a pipe: {name}", _special(name, os.mkfifo))


def _build(home: Path) -> list[str]:
    return recipe_file(recipe_with())(home)


def _in_model(name: str, data: bytes) -> Spoil:
    def spoil(home: Path) -> list[str]:
        (home / "zoo" / "b" / name).write_bytes(data)
        (home / "zoo" / "b" / "link.safetensors").symlink_to("../../outside/secret.safetensors")
        return _build(home)

    return spoil


def _linked(name: str) -> Spoil:
    def spoil(home: Path) -> list[str]:
        (home / "zoo" / "b" / name).unlink(missing_ok=True)
        (home / "zoo" / "b" / name).symlink_to(home / "outside" / name)
        return _build(home)

    return spoil


def _only(name: str) -> Spoil:
    def spoil(home: Path) -> list[str]:
        (home / "zoo" / "b" / "model.safetensors").rename(home / "zoo" / "b" / name)
        return _build(home)

    return spoil


def _special(name: str, make: Callable[[Path], None]) -> Spoil:
    def spoil(home: Path) -> list[str]:
        (home / "zoo" / "b" / name).unlink()
        make(home / "zoo" / "b" / name)
        return _build(home)

    return spoil


# -- journals --------------------------------------------------------------------------------------


def journals() -> Iterator[BadInput]:
    def flipped(data: bytes) -> bytes:
        return data[:60] + bytes([data[60] ^ 1]) + data[61:]

    ways: dict[str, Callable[[bytes], bytes]] = {
        "a diary": lambda _: b"dear diary\n",
        "zeros": lambda _: b"\0" * 100,
        "flipped": flipped,
        "first line gone": lambda data: data.partition(b"\n")[2],
        "upper case": lambda data: data.upper(),
        "carriage returns": lambda data: data.replace(b"\n", b"\r\n"),
        "a newer format": lambda _: frame({"event": "journal", "format": 99}),
        "no text": lambda data: data + _framed(b'{"event":"\x94"}'),
        "no JSON": lambda data: data + _framed(b'{"event":'),
        "no mapping": lambda data: data + _framed(b"[1]"),
        "no name": lambda data: data + _framed(b'{"x":1}'),
        "a name that is a number": lambda data: data + _framed(b'{"event":3}'),
        "nested": lambda data: data + _framed(b"[" * 100_000),
        "another first event": lambda _: frame({"event": "study"}),
    }
    for command in ("status", "report", "repair"):
        for name, way in ways.items():
            yield BadInput(f"{command}: journal: {name}", _journal(command, way))
        yield BadInput(f"{command}: no journal", lambda home, c=command: [c, str(home)])
        yield BadInput(f"{command}: no folder", lambda home, c=command: [c, str(home / "none")])


def frame(event: dict[str, Any]) -> bytes:
    return _framed(json.dumps(event).encode())


def _framed(payload: bytes) -> bytes:
    return b"%08x %d %s\n" % (zlib.crc32(payload), len(payload), payload)


def _journal(command: str, way: Callable[[bytes], bytes]) -> Spoil:
    def spoil(home: Path) -> list[str]:
        run = home / "run"
        run.mkdir()
        with Journal.open(run / "journal.log", create=True) as journal:
            for name in ("one", "two"):
                journal.append({"event": name})
        file = run / "journal.log"
        file.write_bytes(way(file.read_bytes()))
        return [command, str(run)]

    return spoil
