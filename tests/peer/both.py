"""The same recipe merged by evomerge and by mergekit, in an interpreter of its own."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from evomerge.merge.build import build
from evomerge.merge.parents.nested import open_parents, with_merges
from evomerge.recipe.mergekit.to_mergekit import as_yaml, to_mergekit
from evomerge.recipe.recipe import Recipe
from tests.models import load

PYTHON = os.environ.get("MERGEKIT_PYTHON")
needs_mergekit = [
    pytest.mark.peer,
    pytest.mark.skipif(
        not PYTHON, reason="MERGEKIT_PYTHON names no interpreter that has mergekit 0.1.5"
    ),
]


def entries(weights, **more):
    return [
        {"model": model, "parameters": {"weight": weight, **more}}
        for model, weight in weights.items()
    ]


def named(document, folders):
    """The document with folders in place of the models' names."""
    if isinstance(document, dict):
        return {key: named(value, folders) for key, value in document.items()}
    if isinstance(document, list):
        return [named(item, folders) for item in document]
    return folders.get(document, document) if isinstance(document, str) else document


def recipes_of(documents, folders):
    return {
        name: Recipe.from_dict(named(document, folders)) for name, document in documents.items()
    }


def merged_by_both(recipes, top):
    """Every recipe merged by both: {name: (our folder, mergekit's, its problem)}."""
    files = {}
    for number, (name, recipe) in enumerate(recipes.items()):
        build(recipe, top / f"ours-{number}")
        parents = with_merges(recipe, open_parents(recipe.model_names))
        documents = to_mergekit(recipe, list(parents.checkpoints[recipe.donor].tensors))
        files[name] = top / f"{number}.yaml"
        files[name].write_text(as_yaml(documents))
    return merged_by_mergekit(files, top)


def merged_by_mergekit(files, top):
    """Files that were built as ours-0, ours-1 and so on: {name: (ours, theirs, its problem)}."""
    commands, result = [], {}
    for number, (name, file) in enumerate(files.items()):
        ours, theirs = top / f"ours-{number}", top / f"theirs-{number}"
        scratch = ["-I", str(top / f"scratch-{number}"), "--out-path", str(theirs)]
        many = "\n---" in file.read_text()
        command = ["multi", str(file), *scratch] if many else ["yaml", str(file), str(theirs)]
        commands.append([*command, "--quiet", "--no-write-model-card"])
        result[name] = (ours, theirs)
    script = Path(__file__).with_name("run_mergekit.py")
    problems = json.loads(mergekit_python(script, json.dumps(commands)))
    return {name: (*merge, problems[i]) for i, (name, merge) in enumerate(result.items())}


def different(ours, theirs):
    """Tensors of two merges that are not the same to the bit: {name: what differs}."""
    mine, its = load(ours), load(theirs)
    differences = dict.fromkeys(mine.keys() ^ its.keys(), "in one alone")
    for name in sorted(mine.keys() & its.keys()):
        a, b = mine[name], its[name]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            differences[name] = f"{a.dtype} {tuple(a.shape)}, not {b.dtype} {tuple(b.shape)}"
        elif not torch.equal(a, b):
            differences[name] = f"{int((a != b).sum())} of {a.numel()} elements"
    return differences


def mergekit_python(script, text):
    """What a script prints, run by the interpreter that has mergekit."""
    done = subprocess.run(
        [PYTHON, str(script)],
        input=text,
        capture_output=True,
        text=True,
        timeout=900,
        env=quiet_environment(),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def quiet_environment():
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    return {**environment, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
