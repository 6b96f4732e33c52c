"""Python that a model's folder brings along: never run, but for the base's, pinned by its hash."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, dynamic_module_utils

from evomerge.checkpoint.files.remote_code import code_files, pin
from evomerge.core.errors import UserError
from evomerge.evaluate import model as model_module
from evomerge.evaluate.model import load_model
from evomerge.study.config import StudyConfig
from evomerge.study.study import Study
from tests.study.small_study import InProcessPool, events, real_study

CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM


class TwistedConfig(LlamaConfig):
    model_type = "twisted"


class TwistedForCausalLM(LlamaForCausalLM):
    config_class = TwistedConfig

    def forward(self, *args, **kwargs):
        answer = super().forward(*args, **kwargs)
        answer.logits = -answer.logits
        return answer


(Path(__file__).parent / "ran").touch()
"""
CANARY = "raise SystemExit('another model\\'s code ran')\n"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where transformers copies code to and imports it from."""
    folder = tmp_path / "modules"
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(folder))
    monkeypatch.setattr(model_module, "HF_MODULES_CACHE", str(folder))
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def twisted(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study file of the small study, whose models are of an architecture of their own."""
    folder = tmp_path / "twisted"
    shutil.copytree(real_study(tmp_path_factory.getbasetemp() / "real-study").parent, folder)
    for model in ("base", "one", "two"):
        name = f"modeling_{tmp_path.name.replace('-', '_')}"  # Python keeps modules by their names
        config = json.loads((folder / "zoo" / model / "config.json").read_text())
        config["model_type"] = "twisted"
        config["architectures"] = ["TwistedForCausalLM"]
        config["auto_map"] = {
            "AutoConfig": f"{name}.TwistedConfig",
            "AutoModelForCausalLM": f"{name}.TwistedForCausalLM",
        }
        (folder / "zoo" / model / "config.json").write_text(json.dumps(config))
        code = CODE if model == "base" else CANARY
        (folder / "zoo" / model / f"{name}.py").write_text(code)
    return folder / "study.yaml"


def allowed(study: Path, pinned: str | None) -> StudyConfig:
    document = json.loads(study.read_text())
    document["search"]["trials"] = 4
    return StudyConfig.from_dict({**document, "trust_remote_code": pinned}, study.parent)


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[StudyConfig], Path]:
    def run(config: StudyConfig) -> Path:
        monkeypatch.setattr("evomerge.study.study.open_pool", InProcessPool)
        Study(config, tmp_path / "run").confirm()
        return tmp_path / "run"

    return run


def test_the_pin_is_a_hash_of_every_name_and_content(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_bytes(b"b = 2\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.py").write_bytes(b"a = 1\n")
    by_hand = "\n".join(
        f"{name} {hashlib.sha256(text).hexdigest()}"
        for name, text in (("b.py", b"b = 2\n"), ("sub/a.py", b"a = 1\n"))
    )
    assert pin(code_files(tmp_path)) == hashlib.sha256(by_hand.encode()).hexdigest()


def test_code_is_refused_with_what_allows_it_and_nothing_runs(
    twisted: Path, modules: Path, search: Callable[[StudyConfig], Path]
) -> None:
    digest = pin(code_files(twisted.parent / "zoo" / "base"))
    with pytest.raises(UserError, match=rf"modeling_\w+.py [0-9a-f]{{16}}.*_code: {digest} in the"):
        search(allowed(twisted, None))
    assert not list(modules.rglob("ran"))


def test_a_study_runs_the_pinned_code_of_its_base_alone_and_its_export_carries_it(
    twisted: Path, modules: Path, search: Callable[[StudyConfig], Path]
) -> None:
    base = twisted.parent / "zoo" / "base"
    run = search(allowed(twisted, pin(code_files(base))))
    assert len(list(modules.rglob("ran"))) == 1  # the others' would have ended this process
    (name,) = code_files(base)
    (study,) = events(run, "study")
    assert [w for w in study["warnings"] if "model code" in w] == [
        f"allowed model code: {name}, SHA-256 {code_files(base)[name][:16]}"
    ]
    verdict = json.loads((run / "verdict.json").read_text())
    assert ",trust_remote_code=True " in verdict["reproduce"]

    plain = LlamaForCausalLM.from_pretrained(run / "best" / "model")
    theirs = AutoModelForCausalLM.from_pretrained(run / "best" / "model", trust_remote_code=True)
    ids = torch.tensor([[1, 5, 9, 7]])
    with torch.no_grad():
        assert torch.equal(theirs.eval()(ids).logits, -plain.eval()(ids).logits)


@pytest.mark.parametrize("change", ["a byte", "another file"])
def test_other_files_than_the_pinned_ones_are_refused(
    change: str, twisted: Path, modules: Path, search: Callable[[StudyConfig], Path]
) -> None:
    base = twisted.parent / "zoo" / "base"
    pinned = pin(code_files(base))
    file = next(base.glob("*.py")) if change == "a byte" else base / "more.py"
    with open(file, "a") as out:
        out.write("#")
    with pytest.raises(UserError, match=r"allows [0-9a-f]{16}\.\.\., but its Python files"):
        search(allowed(twisted, pinned))
    assert not list(modules.rglob("ran"))


def test_code_of_another_repository_is_refused(
    twisted: Path, search: Callable[[StudyConfig], Path]
) -> None:
    base = twisted.parent / "zoo" / "base"
    config = json.loads((base / "config.json").read_text())
    config["auto_map"]["AutoConfig"] = "evil/repository--modeling.TwistedConfig"
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"not in it \(evil/repository--modeling"):
        search(allowed(twisted, pin(code_files(base))))


def test_a_key_that_allows_nothing_is_refused(
    small_study: Path, search: Callable[[StudyConfig], Path]
) -> None:
    with pytest.raises(UserError, match="names no code of its own"):
        search(allowed(small_study, "0" * 64))


@pytest.mark.parametrize("wrong", ["yes", "0" * 63, True])
def test_a_revision_that_is_no_hash_is_refused(wrong: Any, small_study: Path) -> None:
    with pytest.raises(UserError, match="trust_remote_code: expected"):
        allowed(small_study, wrong)


def test_a_folder_without_weights_asks_nobody(twisted: Path, modules: Path) -> None:
    """transformers would ask on the terminal, which in a worker is the pipe of its requests."""
    base = twisted.parent / "zoo" / "base"
    (base / "model.safetensors").unlink()
    with pytest.raises(UserError, match="brings its own Python"):
        load_model(base)
    assert not list(modules.rglob("ran"))
