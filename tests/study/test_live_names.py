"""Studies of models whose live names are not those on disk: experts, and wrappers of towers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.tasks import TaskManager
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import logging

from evomerge.evaluate.tasks.lm_eval_api import stock_model
from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.study import Study
from tests.architectures import WRAPPERS, config_of
from tests.study.small_study import tokenizer

pytestmark = pytest.mark.usefixtures("real_workers")
KINDS = ["mixtral", "qwen3_moe", "gemma3", "llava", "qwen2_5_vl"]


def auto(kind: str) -> Any:
    """What loads this kind: transformers has some wrappers in one list, and some in the other."""
    not_causal = kind in WRAPPERS and kind != "gemma3"
    return AutoModelForImageTextToText if not_causal else AutoModelForCausalLM


def write_models(kind: str, zoo: Path) -> None:
    """A base and two models around it."""
    logging.disable_progress_bar()
    shutil.rmtree(zoo)
    for seed, name in enumerate(("base", "one", "two")):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = auto(kind).from_config(config_of(kind))
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in dict.fromkeys(model.parameters()):
                weight.add_(0.2 * torch.randn(weight.shape, generator=draw))
        model.save_pretrained(zoo / name)
        tokenizer().save_pretrained(zoo / name)


def by_lm_eval(kind: str, model: Path, tasks: Path, items: dict[str, list[int]]) -> dict:
    """The scores of lm-eval's own evaluation of an exported model."""
    live = auto(kind).from_pretrained(model, dtype=torch.float32).eval()
    loaded = TaskManager(include_path=str(tasks), include_defaults=False).load(list(items))
    for task in loaded["tasks"].values():
        task.set_config(key="num_fewshot", value=0)
    samples = {task: sorted(ids) for task, ids in items.items()}
    stock = stock_model(live, AutoTokenizer.from_pretrained(model), 8)
    return lm_eval.evaluate(stock, loaded, samples=samples, bootstrap_iters=0)["results"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_searched_to_an_export_that_scores_as_the_verdict_says(
    kind: str, own_study: Callable[..., Path], tmp_path: Path
) -> None:
    study = own_study()
    write_models(kind, study.parent / "zoo")
    run = tmp_path / "run"
    with Study(StudyConfig.from_yaml(study), run) as opened:
        verdict = opened.confirm()
        record = opened.record
    assert record.study is not None
    pools = {task: list(ids) for task, ids in record.study.pools["holdout"].items()}
    scored = by_lm_eval(kind, run / "best" / "model", study.parent / "tasks", pools)
    ours = verdict.scores["winner"]
    assert ours["small_choice"] == pytest.approx(scored["small_choice"]["acc,none"])
    (written,) = (v for k, v in scored["small_write"].items() if k.startswith("exact_match,"))
    assert ours["small_write"] == pytest.approx(written)
    exported = load_file(run / "best" / "model" / "model.safetensors")
    assert set(exported) == set(load_file(study.parent / "zoo" / "base" / "model.safetensors"))
    towers = [text for text in record.study.warnings if "read images or sounds" in text]
    assert len(towers) == (kind in WRAPPERS)
    # The stock command loads models of one of transformers' lists only.
    assert (verdict.reproduce is None) == (auto(kind) is AutoModelForImageTextToText)


def test_a_block_of_its_own_keeps_a_tower_as_the_base_has_it(
    own_study: Callable[..., Path], tmp_path: Path
) -> None:
    space = {
        "merge_method": "task_arithmetic",
        "models": [{"model": "*", "parameters": {"weight": {"low": 0.2, "high": 1}}}],
        "blocks": [
            {"components": "vision", "models": [{"model": "*", "parameters": {"weight": 0}}]}
        ],
    }
    study = own_study()
    document = {**json.loads(study.read_text()), "space": space}
    study.write_text(json.dumps(document))
    write_models("qwen2_5_vl", study.parent / "zoo")
    with Study(StudyConfig.from_yaml(study), tmp_path / "run") as opened:
        opened.optimize()
        recipe = next(t.recipe for t in opened.record.trials.values() if t.kind == "trial")
        assert opened.record.study is not None
        assert not any("images or sounds" in text for text in opened.record.study.warnings)
    build(Recipe.from_dict(recipe), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    base = load_file(study.parent / "zoo" / "base" / "model.safetensors")
    same = {name for name in base if torch.equal(merged[name], base[name])}
    assert same == {name for name in base if name.startswith("visual.")}
