"""The child reads a model's files first; its findings are reused, and its failures reported."""

from __future__ import annotations

import json
import re
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch

from evomerge.checkpoint import compatible
from evomerge.checkpoint.compatible import check_same_tokens
from evomerge.checkpoint.dtypes import ELEMENT_BYTES, NAMES
from evomerge.checkpoint.files.folder import stamps
from evomerge.checkpoint.opening import inspect_models, open_model
from evomerge.checkpoint.sandbox import client as inspection
from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_tokenizer

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LARGE = {"format": "x" * inspection.SMALL_BYTES}  # as metadata, more than is read without a child


def model(folder: Path, header: object, tokenizer: object = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + bytes(8)
    (folder / "model.safetensors").write_bytes(data)
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture
def large(tmp_path: Path) -> Path:
    document = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []}
    return model(tmp_path / "large", {"__metadata__": LARGE, "x": ENTRY}, document)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The folders that each child was started for."""
    started: list[list[str]] = []
    ask = inspection.inspect_in_child

    def asking(folders: list[str]) -> object:
        started.append(list(folders))
        return ask(folders)

    monkeypatch.setattr(inspection, "inspect_in_child", asking)
    return started


def child_runs(monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    """Have the child do something else before it begins; `inspector` is its module."""
    start = f"import evomerge.checkpoint.sandbox.child as inspector\n{before}\nmain("
    monkeypatch.setattr(inspection, "START", inspection.START.replace("main(", start, 1))


def test_a_model_of_small_files_has_no_child(tmp_path, asked):
    folder = model(tmp_path / "small", {"x": ENTRY}, {"model": {"vocab": {"a": 0}}})
    checkpoint = open_model(folder)
    assert list(checkpoint.tensors) == ["x"]
    assert checkpoint.tokens.size == 1
    assert not asked


def test_a_model_of_large_files_is_inspected_once_until_a_file_changes(large, asked):
    assert list(open_model(large).tensors) == ["x"]
    assert open_model(large).vocabulary == {"a": 0, "b": 1}
    assert asked == [[str(large)]]
    model(large, {"__metadata__": LARGE, "y": ENTRY})
    assert list(open_model(large).tensors) == ["y"]
    assert len(asked) == 2


def test_models_that_are_opened_together_have_one_child(large, tmp_path, asked):
    other = tmp_path / "other"
    shutil.copytree(large, other)
    inspect_models([str(large), str(other), "org/not-here"])
    first, second = open_model(large), open_model(other)
    check_same_tokens(first, second)
    assert asked == [[str(large), str(other)]]
    assert "vocabulary" not in first.__dict__  # equal sums: no process held it


def test_results_of_another_process_hold_if_the_files_are_the_same(large, asked):
    findings = json.loads(json.dumps(inspect_models([str(large)])))
    inspection.forget()
    inspection.remember(findings)
    assert open_model(large).tokens.size == 2
    assert len(asked) == 1
    (large / "model.safetensors").write_bytes(b"no longer")
    with pytest.raises(UserError, match="not a safetensors file, or truncated"):
        open_model(large)


def test_this_machines_copy_of_a_hub_id_is_inspected_unless_it_is_not_whole(
    large, tmp_path, asked, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    copy = tmp_path / "models--org--name" / "snapshots" / "abc"
    (tmp_path / "models--org--name" / "refs").mkdir(parents=True)
    (tmp_path / "models--org--name" / "refs" / "main").write_text("abc")
    shutil.copytree(large, copy)
    assert list(inspect_models(["org/name", "org/other"])) == [str(copy)]
    assert asked == [[str(copy)]]
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"x": "2.safetensors"}}')
    (copy / "tokenizer.json").write_text(" " * inspection.SMALL_BYTES)
    assert inspect_models(["org/name"])[str(copy)]["stamps"] != stamps(copy)  # not of now
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "[]", "config.json: expected a JSON object"),
        ("model.safetensors.index.json", '{"weight_map": {"x": "../x"}}', "'../x' would leave"),
        ("model.safetensors", "x" * 100, "model.safetensors: not a safetensors file"),
    ],
)
def test_the_child_refuses_with_the_message_of_the_process(
    large, asked, monkeypatch, name, text, message
):
    (large / "tokenizer.json").write_text(" " * inspection.SMALL_BYTES)
    (large / "model.safetensors").unlink()  # which an index beside it would not be read for
    (large / name).write_text(text)
    messages = []
    for _ in range(2):
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            open_model(large)
        messages.append(str(caught.value))
        monkeypatch.setattr(inspection, "SMALL_BYTES", 2**30)  # no child the second time
    assert messages[0] == messages[1]
    assert len(asked) == 1


def test_a_damaged_tokenizer_is_reported_when_it_is_used(large, asked):
    (large / "tokenizer.json").write_text('{"model": {"vocab": {"a": []}}}')
    checkpoint = open_model(large)
    for attribute in ("tokens", "vocabulary"):
        with pytest.raises(UserError, match=r"tokenizer\.json: expected a tokenizer"):
            getattr(checkpoint, attribute)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("inspector.MEGABYTES = 1", r"config\.json: expected .* took more than 180 MB"),
        ("import os; inspector.read_header = lambda file: os.kill(os.getpid(), 9)", "signal 9"),
        (
            "import time; inspector.SECONDS = 1\n"
            "inspector.read_header = lambda file: time.sleep(9)",
            r"model\.safetensors: expected .* longer than 5 s \(or 60 s by the clock\)",
        ),
        (
            "inspector.PROCESSOR_SECONDS = 0\n"  # and what is left of the first second
            "def turn(file):\n    while True: pass\n"
            "inspector.read_header = turn",
            r"model\.safetensors: expected .* longer than 5 s",
        ),
    ],
    ids=["memory", "killed", "clock", "processor"],
)
def test_a_child_that_dies_of_its_limits_is_the_files_fault(large, monkeypatch, before, message):
    (large / "config.json").write_text(json.dumps({"x": "x" * 2**21}))
    child_runs(monkeypatch, before)
    with pytest.raises(UserError, match=message) as caught:
        open_model(large)
    assert "\n" not in str(caught.value)


def test_a_file_that_the_child_may_not_open_is_named(large, monkeypatch):
    error = "PermissionError(13, 'Permission denied', str(file))"
    child_runs(monkeypatch, f"def closed(file): raise {error}\ninspector.read_header = closed")
    with pytest.raises(UserError, match=r"large/model\.safetensors: Permission denied$"):
        open_model(large)


def test_a_child_that_fails_by_our_fault_is_not_the_files(large, monkeypatch):
    child_runs(monkeypatch, "inspector.read_header = None")
    with pytest.raises(RuntimeError, match="'NoneType' object is not callable"):
        open_model(large)


def test_a_child_that_hangs_is_killed(large, monkeypatch):
    monkeypatch.setattr(inspection, "WAIT_SECONDS", 0.3)
    child_runs(monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(UserError, match=r"large: expected .* longer than 5 s"):
        open_model(large)


@pytest.mark.parametrize("executable", ["/nowhere/python", "", None, shutil.which("false")])
def test_without_a_child_the_process_reads_by_itself_and_says_so(large, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.warns(RuntimeWarning, match="cannot start a process that reads model files first"):
        checkpoint = open_model(large)
    assert checkpoint.tokens.size == 2  # and says so once
    model(large, {"__metadata__": LARGE, "x": {**ENTRY, "shape": [3]}})
    with pytest.warns(RuntimeWarning), pytest.raises(UserError, match="does not fit its 8 bytes"):
        open_model(large)


def test_files_that_change_while_they_are_read_are_refused(large, monkeypatch):
    ask = inspection.inspect_in_child

    def ask_and_write(folders):
        findings = ask(folders)
        (large / "config.json").write_text('{"a": 1}')
        return findings

    monkeypatch.setattr(inspection, "inspect_in_child", ask_and_write)
    with pytest.raises(UserError, match="its files changed while being read"):
        open_model(large)


def in_the_child(code: str) -> str:
    """What a child prints that has its limits."""
    start = inspection.START.replace("import main\nmain(sys.argv[2:])", f"import limit\n{code}")
    root = Path(inspection.__file__).parents[3]
    words = [sys.executable, "-I", "-S", "-c", start, root]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_the_child_is_python_alone():
    loaded = in_the_child("print(*(module.partition('.')[0] for module in sys.modules))").split()
    assert {*loaded} <= {*sys.stdlib_module_names, "__main__", "evomerge"}


def test_the_child_writes_no_file_opens_few_and_leaves_no_image(tmp_path):
    code = f"""
import resource
limit()
kinds = "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_AS"
print([resource.getrlimit(getattr(resource, kind))[1] for kind in kinds])
try:
    with open({str(tmp_path / "written")!r}, "w") as out:
        out.write("x")
except OSError as error:
    print(error.strerror)
"""
    limits, why = in_the_child(code).splitlines()
    size, files, core, memory = json.loads(limits)
    assert (size, files, core) == (0, 16, 0)
    assert 180 * 2**20 < memory < 280 * 2**20
    assert why == "File too large"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 16  # and not this process


def test_large_tokenizers_that_differ_are_reported_with_their_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(compatible, "MOST_MEGABYTES", 0)
    tokens = {"a": {"a": 0}, "b": {"a": 0, "b": 1}}
    first, second = (
        open_model(model(tmp_path / name, {"x": ENTRY}, {"model": {"vocab": vocabulary}}))
        for name, vocabulary in tokens.items()
    )
    with pytest.raises(UserError, match=r"differs from that of .*a \(1 and 2 tokens\); merging"):
        check_same_tokens(first, second)


def test_equal_vocabularies_are_equal_in_any_order(tmp_path):
    tokens = {"a": {"a": 0, "b": 0, "c": 1}, "b": {"c": 1, "b": 0, "a": 0}}
    first, second = (
        open_model(model(tmp_path / name, {"x": ENTRY}, {"model": {"vocab": vocabulary}}))
        for name, vocabulary in tokens.items()
    )
    assert first.tokens.digest != second.tokens.digest  # two tokens share an id
    check_same_tokens(first, second)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, "{", "x" * 2**25], ids=["deep", "cut", "large"])
def test_settings_of_a_tokenizer_are_read_before_libraries_read_them(tmp_path, name, text):
    folder = model(tmp_path / "model", {"x": ENTRY}, {"model": {"vocab": {"a": 0}}})
    (folder / name).write_text(text)
    assert list(open_model(folder).tensors) == ["x"]  # which needs none of them
    with pytest.raises(UserError, match=rf"{name}: expected") as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_torch_and_the_header_agree_on_the_bytes_of_an_element():
    assert {code: getattr(torch, name).itemsize for code, name in NAMES.items()} == ELEMENT_BYTES


def test_an_adapters_large_file_is_no_models(tmp_path):
    base = model(tmp_path / "base", {"a": ENTRY})
    adapter = model(tmp_path / "adapter", {"a": ENTRY, "__metadata__": LARGE})
    (adapter / "model.safetensors").rename(adapter / "adapter_model.safetensors")
    (adapter / "config.json").rename(adapter / "adapter_config.json")
    inspect_models([f"{base}+{adapter}"])
