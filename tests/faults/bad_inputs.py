"""A corpus of bad inputs: each a function that spoils a whole one, and the command that reads it.

Nothing of it is stored: every input is made where it is needed, from a small family of models, a
study and a journal that are whole.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evomerge import methods
from tests.faults.bad_files import BadInput, Spoil, journals, models, recipe_file, recipe_with
from tests.study.small_study import stub_document


def corpus() -> list[BadInput]:
    """All of them, each different."""
    made = [*_texts(), *_studies(), *_unknown_keys(), *_recipes(), *models(), *journals()]
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


RECIPES: dict[str, dict[str, Any]] = {
    "no method": recipe_with(merge_method=None),
    "unknown method": recipe_with(merge_method="tise"),
    "method is a number": recipe_with(merge_method=3),
    "no models": recipe_with(models=[]),
    "models is a map": recipe_with(models={}),
    "model is a number": recipe_with(models=[3]),
    "model is nobody": recipe_with(models=[{"model": "nobody"}]),
    "model is a URL": recipe_with(models=[{"model": "https://host/x"}]),
    "model climbs": recipe_with(models=[{"model": "../../../../etc"}]),
    "model is /proc": recipe_with(models=[{"model": "/proc/self"}]),
    "no base": recipe_with(base_model=None),
    "base is a list": recipe_with(base_model=[]),
    "unknown dtype": recipe_with(dtype="int4"),
    "unknown out_dtype": recipe_with(out_dtype="fp3"),
    "seed is text": recipe_with(seed="x"),
    "unknown key": recipe_with(mrege_method="linear"),
    "weight is nan": recipe_with(parameters={"weight": float("nan")}),
    "weight is inf": recipe_with(parameters={"weight": float("inf")}),
    "weight is text": recipe_with(parameters={"weight": "x"}),
    "weight is a map": recipe_with(parameters={"weight": {}}),
    "weight is an empty list": recipe_with(parameters={"weight": []}),
    "parameters is a list": recipe_with(parameters=[]),
    "blocks is a map": recipe_with(blocks={}),
    "block beyond": recipe_with(blocks=[{"layers": [0, 999]}]),
    "block backwards": recipe_with(blocks=[{"layers": [2, 1]}]),
    "unknown component": recipe_with(blocks=[{"components": ["brain"]}]),
    "both kinds": recipe_with(slices=[{"sources": [{"model": "a", "layer_range": [0, 1]}]}]),
    "slice beyond": {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": "a", "layer_range": [0, 99]}]}],
    },
    "slice without source": {"merge_method": "passthrough", "slices": [{"sources": []}]},
    "slice of a number": {"merge_method": "passthrough", "slices": [3]},
    "tokenizer of nobody": recipe_with(tokenizer_source="model:nobody"),
}


def _recipes() -> Iterator[BadInput]:
    for name, document in RECIPES.items():
        yield BadInput(f"recipe: {name}", recipe_file(document))
    for method in methods.names():
        spec = methods.get(method)
        models = [{"model": m} for m in ("a", "b")][: spec.max_models or 2]
        whole = {"merge_method": method, "base_model": "base", "models": models}
        yield BadInput(
            f"recipe: {method}: unknown parameter",
            recipe_file({**whole, "parameters": {"no_such_parameter": 1}}),
        )
        for parameter in spec.parameters:
            for wrong in ("a word", float("nan"), {"x": 1}):
                yield BadInput(
                    f"recipe: {method}: {parameter.name} = {wrong!r}",
                    recipe_file({**whole, "parameters": {parameter.name: wrong}}),
                )
