"""Every file of a model folder is a regular one of that folder, read within limits, never HTML."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evomerge.checkpoint.files.document import copy_file, read_text
from evomerge.checkpoint.files.folder import resolve
from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_model
from evomerge.merge.build import build
from evomerge.merge.output.card import model_card
from evomerge.recipe.recipe import Recipe
from tests.models import make_family

FILES = ["README.md", "config.json", "generation_config.json", "chat_template.jinja"]
FILES += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]
FILES += ["tokenizer.model", "merges.txt", "model.safetensors", "model.safetensors.index.json"]
FILES += ["modeling_own.py"]
TRICKS = ["pipe", "device", "link out", "link to nothing"]
# Reads as a user would: in a process of its own, whose memory and time are bounded.
BUILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
from evomerge.cli import main
sys.exit(main(["build", "recipe.yaml", "out"]))
"""


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_family(tmp_path_factory.mktemp("family"))


def copied(family: dict[str, str], folder: Path) -> Recipe:
    """Copies of the models, and their average."""
    for name, path in family.items():
        shutil.copytree(path, folder / name)
    models = [{"model": str(folder / name), "parameters": {"weight": 1}} for name in family]
    recipe = Recipe.from_dict({"merge_method": "linear", "models": models})
    recipe.to_yaml(folder / "recipe.yaml")
    return recipe


def play(trick: str, file: Path) -> None:
    """Put something in a file's place that must not be read."""
    file.unlink(missing_ok=True)
    if trick == "pipe":
        os.mkfifo(file)
    else:
        secret = file.parent.parent / "secret"
        secret.write_text("license: secret\n")
        targets = {"device": "/dev/zero", "link out": str(secret), "link to nothing": "nowhere"}
        file.symlink_to(targets[trick])


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_of_the_folder_is_refused_by_name(
    family: dict[str, str], tmp_path: Path, name: str, trick: str
) -> None:
    folder = shutil.copytree(family["a"], tmp_path / "a")
    play(trick, folder / name)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        resolve(folder)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        read_text(folder / name)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        copy_file(folder / name, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("trick", ["pipe", "device"])
def test_build_ends_at_once_with_one_line(
    family: dict[str, str], tmp_path: Path, trick: str
) -> None:
    copied(family, tmp_path)
    play(trick, tmp_path / "a" / "README.md")
    done = subprocess.run(
        [sys.executable, "-c", BUILD],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().endswith("a/README.md: expected a regular file")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_too_large_is_neither_read_nor_copied(tmp_path: Path) -> None:
    large = tmp_path / "generation_config.json"
    with large.open("wb") as file:
        file.truncate(300 * 2**20)  # takes no disk until it is copied
    with pytest.raises(UserError, match="expected at most 268,435,456 bytes but it has"):
        copy_file(large, tmp_path / "copy")
    with pytest.raises(UserError, match="expected at most 16,777,216 bytes but it has"):
        read_text(large)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "more",
    [
        {"attn_implementation": "org/kernel"},
        {"_attn_implementation": "kernels-community/x@main:f"},
        {"text_config": {"attn_implementation": "paged|org/kernel"}},
        {"attn_implementation": {"": "sdpa", "vision_config": "org/kernel"}},
        {"experts_implementation": "org/kernel"},
        {"_attn_implementation_internal": "org/kernel"},
    ],
)
def test_a_config_cannot_name_code_on_the_hub(
    family: dict[str, str], tmp_path: Path, more: dict[str, Any]
) -> None:
    recipe = copied(family, tmp_path)
    file = tmp_path / "a" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))
    with pytest.raises(
        UserError, match=r"a/config\.json: \S*_implementation\S*: expected the name"
    ):
        build(recipe, tmp_path / "out")
    with pytest.raises(UserError, match="which is code on the hub"):
        load_model(tmp_path / "a")


def test_a_config_may_name_an_implementation_of_transformers(
    family: dict[str, str], tmp_path: Path
) -> None:
    copied(family, tmp_path)
    file = tmp_path / "a" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "attn_implementation": "eager"}))
    model, _ = load_model(tmp_path / "a")
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    "licence",
    ['"<script>alert(1)</script>"', '"mit\\n# A heading"', '"[x](http://y)"', f'"{"x" * 200}"'],
)
def test_a_parents_licence_becomes_no_markup_in_the_card(
    family: dict[str, str], tmp_path: Path, licence: str
) -> None:
    recipe = copied(family, tmp_path)
    for name in family:
        (tmp_path / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    body = model_card(recipe).partition("\n---\n")[2]
    assert "<script>" not in body
    assert "\n# A heading" not in body
    assert "[x](http" not in body.replace(r"\[", "")


def test_a_parents_name_becomes_no_markup_in_the_card(
    family: dict[str, str], tmp_path: Path
) -> None:
    odd = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(family["a"], odd)
    models = [{"model": m, "parameters": {"weight": 1}} for m in (str(odd), family["b"])]
    recipe = Recipe.from_dict({"merge_method": "linear", "models": models})
    card = model_card(recipe, "<b>title</b>", "<i>result</i> of <img src=x>")
    prose, _, recipe_text = card.partition("\n---\n")[2].partition("```yaml")
    assert "<" not in prose
    assert "&lt;img src=x onerror=alert(1)&gt;" in prose
    assert "<img" in recipe_text  # in a block of code, where it is text


def test_a_recipe_with_backticks_stays_in_its_block_of_code(family: dict[str, str]) -> None:
    models = [{"model": family[n], "parameters": {"weight": 1}} for n in "ab"]
    template = "{{ messages }}\n```\n<script>alert(1)</script>\n````\n"
    document = {"merge_method": "linear", "models": models, "chat_template": template}
    card = model_card(Recipe.from_dict(document))
    assert card.count("`````") == 2
