"""Files beside the weights that a loader reads: they belong to the model."""

import ast
import re
from pathlib import Path

import pytest
import transformers

from evomerge.checkpoint.files.companions import TOKENIZER, companions, copy_licences
from evomerge.core.errors import UserError


def declared_names():
    """Every file name that a tokenizer of transformers declares as its vocabulary."""
    names = set()
    for file in Path(transformers.__file__).parent.glob("models/*/tokenization*.py"):
        for match in re.finditer(r"^VOCAB_FILES_NAMES = (\{.*?\})", file.read_text(), re.S | re.M):
            names |= set(ast.literal_eval(match[1]).values())
    return names


def test_every_file_that_a_tokenizer_of_transformers_declares_belongs_to_it(tmp_path):
    names = declared_names()
    assert len(names) > 15
    for name in names:
        (tmp_path / name).write_text("{}")
    assert {path.name for path in companions(tmp_path, TOKENIZER)} == names


def test_what_no_loader_reads_stays_behind(tmp_path):
    others = ["trainer_state.json", "all_results.json", "notes.txt", "README.md", "config.json"]
    others += ["model.safetensors", "pytorch_model.bin", "adapter_config.json", "optimizer.pt"]
    read = ["preprocessor_config.json", "LICENSE", "USE_POLICY.md", "tokenizer.model.v3"]
    read += ["1_Pooling/config.json", "additional_chat_templates/tool.jinja", "qwen.tiktoken"]
    for name in [*others, *read]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    names = {path.relative_to(tmp_path).as_posix() for path in companions(tmp_path)}
    assert names == set(read)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "LICENSE").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="leaves the model's folder"):
        companions(tmp_path / "model")


def test_licences_that_differ_are_all_there(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name, text in (("a", "MIT"), ("b", "MIT"), ("c", "Apache")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "LICENSE").write_text(text)
        copy_licences(tmp_path / name, out, name)
    assert {p.name: p.read_text() for p in out.iterdir()} == {
        "LICENSE": "MIT",
        "LICENSE.c": "Apache",
    }
