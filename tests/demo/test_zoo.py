"""A tiny zoo, trained in real processes."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evomerge.core.errors import UserError
from evomerge.demo import Step, make_zoo, write_study
from evomerge.demo.children import Children
from evomerge.demo.folder import MARKER

FOUND = ("reverse", "max", "ja")
TINY = {"hidden": 32, "layers": 2, "base_steps": 5, "expert_steps": 2}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return make_zoo(tmp_path_factory.mktemp("zoo"), **TINY)


def _weights(zoo):
    return {name: (f / "model.safetensors").read_bytes() for name, f in zoo.experts.items()}


def test_the_models_are_ordinary_folders_that_differ_and_say_where_to_stop(zoo):
    from transformers import AutoConfig, AutoTokenizer

    for folder in (zoo.base, *zoo.experts.values()):
        config = AutoConfig.from_pretrained(folder)
        assert (config.model_type, config.hidden_size, config.head_dim) == ("llama", 32, 32)
        assert (config.tie_word_embeddings, config.dtype.itemsize) == (True, 4)
        generation = json.loads((folder / "generation_config.json").read_text())
        assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 0)
        text = "整一九四九二→sort 19492=12499"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
        assert tokenizer(text)["input_ids"][0] == tokenizer.bos_token_id == config.bos_token_id
    assert len({*_weights(zoo).values(), (zoo.base / "model.safetensors").read_bytes()}) == 5


def test_a_harmed_expert_alone_is_trained_again_to_the_same_bytes(zoo):
    before, harmed = _weights(zoo), zoo.experts["sort"] / "model.safetensors"
    harmed.write_bytes(before["sort"][:5000])
    steps = []
    again = make_zoo(zoo.directory, **TINY, progress=steps.append)
    assert again == zoo
    assert _weights(again) == before
    trained = [step for step in steps if step.model == "sort"]
    assert [step.done for step in trained] == [0, 2]
    assert trained[1].loss == pytest.approx(math.log(37), rel=0.2)  # 37 words, hardly learnt
    reused = {step for step in steps if step.model != "sort"}
    assert reused == {Step("base", 5, 5, None), *(Step(x, 2, 2, None) for x in FOUND)}
    assert not list(zoo.directory.glob(".partial*"))


def test_a_complete_zoo_is_found_and_starts_no_process(zoo, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    times = {path: path.stat().st_mtime_ns for path in zoo.directory.rglob("*.*")}
    steps = []
    make_zoo(zoo.directory, **TINY, progress=steps.append)
    assert steps[0] == Step("base", 5, 5, None)
    assert len(steps) == 5
    assert {path: path.stat().st_mtime_ns for path in zoo.directory.rglob("*.*")} == times | {
        zoo.directory / ".lock": (zoo.directory / ".lock").stat().st_mtime_ns
    }


def test_a_moved_zoo_keeps_its_models_and_mends_its_task_paths(zoo, monkeypatch, tmp_path):
    moved = tmp_path / "moved"
    os.rename(zoo.directory, moved)
    monkeypatch.setattr(subprocess, "Popen", None)
    try:
        made = make_zoo(moved, **TINY)
        task = yaml.safe_load((made.tasks / "demo_ja_sort.yaml").read_text(encoding="utf-8"))
        assert task["dataset_kwargs"]["data_files"]["test"] == str(moved / "tasks/ja_sort.jsonl")
    finally:
        os.rename(moved, zoo.directory)


def test_the_record_beside_the_weights_says_what_they_were_made_from(zoo):
    record = json.loads((zoo.experts["max"] / MARKER).read_text())
    assert record["made_from"]["base"]["hidden"] == 32
    assert record["made_from"]["expert_steps"] == 2
    assert record["made_from"]["lesson"]["plain max, 0% wrong"] == 2.0
    assert len(record["sha256"]["model.safetensors"]) == 64


def test_a_failing_process_is_reported_with_its_last_words(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho out of memory >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    said = "training base failed with exit status 3: out of memory"
    with Children(None) as children, pytest.raises(RuntimeError, match=said):
        children.train("base", {"model": "base"})


def test_nothing_is_left_of_a_zoo_whose_training_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="training base failed with exit status 1"):
        make_zoo(tmp_path, **TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "tasks"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"architecture": "lama"}, "unknown architecture 'lama': did you mean 'llama'"),
        ({"hidden": 48}, "multiple of 32.*got 48"),
        ({"base_steps": 0}, "base_steps >= 1.*got 0"),
        ({"processes": 0}, "processes >= 1.*got 0"),
    ],
)
def test_a_setting_out_of_range_is_told_before_anything_is_written(tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        make_zoo(tmp_path / "zoo", **setting)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_other_architectures_have_the_size_asked_for(architecture):
    from evomerge.demo.model import config
    from evomerge.demo.settings import Settings

    made = config(Settings(architecture=architecture, hidden=64, layers=3))
    assert (made.model_type, made.hidden_size, made.num_hidden_layers) == (architecture, 64, 3)
    assert made.hidden_size // made.num_attention_heads == 32


def test_the_study_file_names_everything_relative_to_itself(zoo):
    path = write_study(zoo, zoo.directory.parent / "study.yaml", trials=40)
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert (path.parent / study["base_model"]).resolve() == zoo.base.resolve()
    folders = [(path.parent / model).resolve() for model in study["models"]]
    assert folders == [folder.resolve() for folder in zoo.experts.values()]
    assert [task["name"] for task in study["evaluate"]["tasks"]] == list(zoo.task_names)
    assert (path.parent / study["evaluate"]["include_path"][0]).samefile(zoo.tasks)
    assert study["space"] == "task_arithmetic_by_tensor"
    assert study["evaluate"]["items"] == {
        "search": 0.5,
        "race": 0.2,
        "holdout": 0.3,
        "per_generation": 14,
    }
    assert study["search"] == {"optimizer": "adam", "trials": 40, "seed": 0}
    assert study["workers"] == {"backend": "local", "count": 2, "device": "auto", "threads": 1}
    assert study["output"] == {"dtype": "float32", "save_model": True}


def test_a_study_reads_the_study_file(zoo, tmp_path):
    from evomerge.study.config import StudyConfig

    config = StudyConfig.from_yaml(write_study(zoo, tmp_path / "a folder" / "study.yaml", seed=3))
    assert Path(config.base_model).samefile(zoo.base)
    assert [Path(model).name for model in config.models] == [f.name for f in zoo.experts.values()]
    assert Path(config.evaluate.include_path[0]).samefile(zoo.tasks)
    assert (config.search.seed, config.output.dtype) == (3, "float32")


def test_importing_the_demo_loads_neither_torch_nor_transformers():
    program = "import sys, evomerge.demo; print({'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
