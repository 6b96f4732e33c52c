"""A corpus of bad inputs: each a function that spoils a whole one, and the command that reads it.

Nothing of it is stored: every input is made where it is needed, from a small family of models, a
study and a journal that are whole.
"""

from __future__ import annotations

import copy
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge import methods
from evomerge.study.journal.journal import Journal
from tests.study.small_study import stub_document

Spoil = Callable[[Path], list[str]]  # changes files in a home folder; the command's words


@dataclass(frozen=True)
class BadInput:
    """One bad input: its name, and what makes it."""

    name: str
    spoil: Spoil


def corpus() -> list[BadInput]:
    """All of them, each different."""
    made = [*_texts(), *_studies(), *_unknown_keys(), *_recipes(), *_models(), *_journals()]
    assert len({bad.name for bad in made}) == len(made)
    return made


# -- YAML as text ----------------------------------------------------------------------------------

TEXTS = {
    "nothing": "",
    "a word": "word",
    "a number": "3",
    "a list": "- 1\n- 2\n",
    "unclosed list": "models: [a",
    "unclosed map": "models: {a",
    "unclosed quote": 'models: "a',
    "tab": "a:\n\t- b\n",
    "alias": "a: &x [1]\nb: *x\n",
    "laughs": "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
    "merge key": "a: &x {b: 1}\nc:\n  <<: *x\n",
    "twice": "models: [a]\nmodels: [b]\n",
    "twice inside": "evaluate: {tasks: [a], tasks: [b]}\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "python object": "a: !!python/object/apply:os.system ['touch CANARY']\n",
    "python name": "a: !!python/name:os.system\n",
    "python tuple": "a: !!python/tuple [1]\n",
    "function tag": "a: !function code.run\n",
    "own tag": "a: !x 1\n",
    "binary": "a: !!binary aGVsbG8=\n",
    "set": "a: !!set {b, c}\n",
    "nul": "a: \x00\n",
    "control": "a: \x07\n",
    "deep lists": "a: " + "[" * 3000 + "]" * 3000,
    "deep maps": "{a: " * 2000 + "1" + "}" * 2000,
    "long number": "a: " + "9" * 6000,
    "no date": "a: 2024-99-99\n",
    "no time": "a: 2024-01-01 99:99:99\n",
    "key is a list": "? [1, 2]\n: 3\n",
    "key is a map": "? {a: 1}\n: 3\n",
    "key is a number": "1: 2\n",
    "key is null": "~: 2\n",
    "key is true": "true: 2\n",
    "too large": "a: " + "x" * (2**20),
    "many keys": "".join(f"k{i}: 1\n" for i in range(50_000)),
    "bom": "\ufeffa: [",
    "percent": "%YAML 9.9\n---\na: 1\n",
    "html": "<html><body>404 Not Found</body></html>",
    "json cut": '{"models": ["a", ',
    "template": "base_model: {{ base }}\n",
}
BYTES = {"utf-16": b"\xff\xfea\x00:\x00", "latin": b"a: \xe4\n", "zeros": b"\0" * 100}


def _texts() -> Iterator[BadInput]:
    commands = {"search": ["search", "{}", "run"], "build": ["build", "{}", "out"]}
    for command, words in commands.items():
        for name, text in {**TEXTS, **BYTES}.items():
            yield BadInput(f"{command}: text: {name}", _file(text, words))


def _file(text: str | bytes, words: list[str]) -> Spoil:
    def spoil(home: Path) -> list[str]:
        file = home / "input.yaml"
        written = text.replace("CANARY", str(home / "CANARY")) if isinstance(text, str) else text
        file.write_bytes(written if isinstance(written, bytes) else written.encode())
        return _words(words, file, home)

    return spoil


def _words(words: list[str], file: Path, home: Path) -> list[str]:
    return [
        str(file) if word == "{}" else str(home / word) if word in ("run", "out") else word
        for word in words
    ]


# -- studies ---------------------------------------------------------------------------------------

WRONG: dict[tuple[str, ...], list[Any]] = {
    ("base_model",): [3, None, [], {}, True],
    ("models",): [3, None, [], {}, "one", [3], [None], ["one", "one"], [[]]],
    ("space",): [3, None, [], True, "", "no_such_space", "../../etc/passwd", {}, {"x": 1}],
    ("evaluate",): [3, None, [], "x", {}],
    ("evaluate", "tasks"): [3, None, [], "x", [3], [{}], [{"name": 3}], ["a", "a"], [None]],
    ("evaluate", "include_path"): [3, None, "x", [3], ["/nowhere/at/all"]],
    ("evaluate", "num_fewshot"): ["x", 1.5, [], True, {}],
    ("evaluate", "apply_chat_template"): ["x", 1, None, []],
    ("evaluate", "batch_size"): ["x", 0, -1, 1.5, None, [], True],
    ("evaluate", "fitness"): ["x", 3, None, []],
    ("evaluate", "allow_task_code"): ["yes please", 1, None],
    ("evaluate", "items"): [3, None, [], "x", {"search": 2.0}, {"race": -1.0}, {"holdout": "x"}],
    ("evaluate", "items", "per_generation"): [0, -1, "x", 1.5, True],
    ("evaluate", "items", "search"): [float("nan"), float("inf"), -0.5, 7, "x"],
    ("search",): [3, None, [], "x"],
    ("search", "optimizer"): ["cmaess", "", 3, []],
    ("search", "then"): [3, "adam", {}, {"optimizer": "adam"}, {"optimizer": "x", "after": 2}],
    ("search", "trials"): [0, -1, "x", 1.5, None, True],
    ("search", "seed"): ["x", 1.5, None, [], True],
    ("search", "population"): ["x", 1.5, [], True],
    ("search", "deadline"): ["tomorrow", "8", "-8h", 3, [], "8 parsecs"],
    ("search", "options"): [3, None, [], "x", {"no_such_option": 1}],
    ("workers",): [3, None, [], "x"],
    ("workers", "backend"): ["slurm", 3, None],
    ("workers", "count"): [0, -1, "two", 1.5, None],
    ("workers", "threads"): [0, -1, "two", None],
    ("workers", "gpus"): [-1, "x", None, float("nan")],
    ("workers", "device"): [3, None, []],
    ("output",): [3, None, [], "x"],
    ("output", "dtype"): ["int4", "float64", 3, None],
    ("output", "save_model"): ["x", 3, None],
}


def _studies() -> Iterator[BadInput]:
    for path, values in WRONG.items():
        for value in values:
            document = copy.deepcopy(stub_document(models=["one"]))
            node = document
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = value
            name = f"study: {'.'.join(path)} = {value!r}"
            yield BadInput(name, _file(json.dumps(document), ["search", "{}", "run"]))


def _unknown_keys() -> Iterator[BadInput]:
    sections: list[tuple[str, ...]] = [
        (),
        ("evaluate",),
        ("evaluate", "items"),
        ("search",),
        ("workers",),
        ("output",),
    ]
    for path in sections:
        for key in ("sead", "Tasks", "__class__", "x" * 300):
            document = copy.deepcopy(stub_document(models=["one"]))
            node = document
            for part in path:
                node = node.setdefault(part, {})
            node[key] = 1
            name = f"study: unknown {'.'.join([*path, key])[:60]}"
            yield BadInput(name, _file(json.dumps(document), ["search", "{}", "run"]))


# -- recipes ---------------------------------------------------------------------------------------


def _recipe(**changes: Any) -> dict[str, Any]:
    return {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 0.5}}, {"model": "b"}],
        "parameters": {"weight": 0.5},
        "dtype": "float32",
        **changes,
    }


RECIPES: dict[str, dict[str, Any]] = {
    "no method": _recipe(merge_method=None),
    "unknown method": _recipe(merge_method="tise"),
    "method is a number": _recipe(merge_method=3),
    "no models": _recipe(models=[]),
    "models is a map": _recipe(models={}),
    "model is a number": _recipe(models=[3]),
    "model is nobody": _recipe(models=[{"model": "nobody"}]),
    "model is a URL": _recipe(models=[{"model": "https://host/x"}]),
    "model climbs": _recipe(models=[{"model": "../../../../etc"}]),
    "model is /proc": _recipe(models=[{"model": "/proc/self"}]),
    "no base": _recipe(base_model=None),
    "base is a list": _recipe(base_model=[]),
    "unknown dtype": _recipe(dtype="int4"),
    "unknown out_dtype": _recipe(out_dtype="fp3"),
    "seed is text": _recipe(seed="x"),
    "unknown key": _recipe(mrege_method="linear"),
    "weight is nan": _recipe(parameters={"weight": float("nan")}),
    "weight is inf": _recipe(parameters={"weight": float("inf")}),
    "weight is text": _recipe(parameters={"weight": "x"}),
    "weight is a map": _recipe(parameters={"weight": {}}),
    "weight is an empty list": _recipe(parameters={"weight": []}),
    "parameters is a list": _recipe(parameters=[]),
    "blocks is a map": _recipe(blocks={}),
    "block beyond": _recipe(blocks=[{"layers": [0, 999]}]),
    "block backwards": _recipe(blocks=[{"layers": [2, 1]}]),
    "unknown component": _recipe(blocks=[{"components": ["brain"]}]),
    "both kinds": _recipe(slices=[{"sources": [{"model": "a", "layer_range": [0, 1]}]}]),
    "slice beyond": {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": "a", "layer_range": [0, 99]}]}],
    },
    "slice without source": {"merge_method": "passthrough", "slices": [{"sources": []}]},
    "slice of a number": {"merge_method": "passthrough", "slices": [3]},
    "tokenizer of nobody": _recipe(tokenizer_source="model:nobody"),
}


def _recipes() -> Iterator[BadInput]:
    for name, document in RECIPES.items():
        yield BadInput(f"recipe: {name}", _recipe_file(document))
    for method in methods.names():
        spec = methods.get(method)
        models = [{"model": m} for m in ("a", "b")][: spec.max_models or 2]
        whole = {"merge_method": method, "base_model": "base", "models": models}
        yield BadInput(
            f"recipe: {method}: unknown parameter",
            _recipe_file({**whole, "parameters": {"no_such_parameter": 1}}),
        )
        for parameter in spec.parameters:
            for wrong in ("a word", float("nan"), {"x": 1}):
                yield BadInput(
                    f"recipe: {method}: {parameter.name} = {wrong!r}",
                    _recipe_file({**whole, "parameters": {parameter.name: wrong}}),
                )


def _recipe_file(document: dict[str, Any]) -> Spoil:
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


# -- model folders ---------------------------------------------------------------------------------

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


def _models() -> Iterator[BadInput]:
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
    return _recipe_file(_recipe())(home)


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


def _journals() -> Iterator[BadInput]:
    def flipped(data: bytes) -> bytes:
        return data[:60] + bytes([data[60] ^ 1]) + data[61:]

    ways: dict[str, Callable[[bytes], bytes]] = {
        "a diary": lambda _: b"dear diary\n",
        "zeros": lambda _: b"\0" * 100,
        "flipped": flipped,
        "first line gone": lambda data: data.partition(b"\n")[2],
        "upper case": lambda data: data.upper(),
        "carriage returns": lambda data: data.replace(b"\n", b"\r\n"),
        "a newer format": lambda _: _frame({"event": "journal", "format": 99}),
        "no text": lambda data: data + _framed(b'{"event":"\x94"}'),
        "no JSON": lambda data: data + _framed(b'{"event":'),
        "no mapping": lambda data: data + _framed(b"[1]"),
        "no name": lambda data: data + _framed(b'{"x":1}'),
        "a name that is a number": lambda data: data + _framed(b'{"event":3}'),
        "nested": lambda data: data + _framed(b"[" * 100_000),
        "another first event": lambda _: _frame({"event": "study"}),
    }
    for command in ("status", "report", "repair"):
        for name, way in ways.items():
            yield BadInput(f"{command}: journal: {name}", _journal(command, way))
        yield BadInput(f"{command}: no journal", lambda home, c=command: [c, str(home)])
        yield BadInput(f"{command}: no folder", lambda home, c=command: [c, str(home / "none")])


def _frame(event: dict[str, Any]) -> bytes:
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
