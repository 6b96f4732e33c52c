"""Checks that every architecture of the corpus has to pass, or to be refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from evomerge.checkpoint.loaded.config import differences
from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.phases.anchors import anchors
from evomerge.study.study import Study
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Describe, Evaluate, Export, Failure
from tests.corpus.architectures import CAUSAL, Architecture
from tests.corpus.zoo import FILES, load, logits, write_task

ITEMS = {"corpus_choice": list(range(24))}
SAID_BY_EVERY_SAVE = ("transformers_version", "dtype", "torch_dtype", "_name_or_path")


class RefusedError(Exception):
    """The worker answered with a user's error: what cannot be done, in one line."""


def check_passthrough(architecture: Architecture, zoo: dict[str, Path], out: Path) -> None:
    """A parent passed through is that parent: logits, config and every other file."""
    build(_of_one(zoo["one"]), out)
    ours, theirs = (load(folder, architecture) for folder in (out, zoo["one"]))
    assert torch.equal(logits(ours, architecture), logits(theirs, architecture))
    configs = [json.loads((folder / "config.json").read_text()) for folder in (zoo["one"], out)]
    assert not differences(*configs)
    plain = [_without(config, SAID_BY_EVERY_SAVE) for config in configs]
    assert plain[0] == plain[1]
    assert {file.name for file in zoo["one"].iterdir()} <= {file.name for file in out.iterdir()}
    for name in [*FILES, "tokenizer.json", "tokenizer_config.json"]:
        assert (out / name).read_bytes() == (zoo["one"] / name).read_bytes(), name


def check_linear(architecture: Architecture, zoo: dict[str, Path], out: Path) -> None:
    """A linear merge is, in every tensor of the live model, the mean in float64."""
    build(_mean(zoo), out)
    merged = load(out, architecture).state_dict()
    states = [load(zoo[name], architecture).state_dict() for name in ("one", "two")]
    for name, tensor in merged.items():
        if tensor.is_floating_point():
            expected = 0.3 * states[0][name].double() + 0.7 * states[1][name].double()
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6, msg=name)


def check_search(architecture: Architecture, zoo: dict[str, Path], out: Path) -> None:
    """Candidates in place are what is exported; scores are those of the stock harness."""
    config = StudyConfig.from_dict(study_document(zoo, out), out)
    evaluator = Evaluator(config)
    _answered(evaluator.handle(Describe()))
    recipes = {a.name: a.recipe for a in anchors(config) if a.kind == "parent"}
    recipes["mean"] = _mean(zoo)
    for name, recipe in recipes.items():
        request = Evaluate(recipe.to_dict(), [ITEMS], "metric", digest=True)
        scores = _answered(evaluator.handle(request))
        folder = out / name
        exported = _answered(evaluator.handle(Export(recipe.to_dict(), str(folder))))
        assert exported.weights_digest == scores.weights_digest, name
        theirs = stock(folder, out / "tasks", architecture)
        assert {row[1]: float(row[2]) for row in scores.rows} == theirs, name
        if name in zoo:
            assert theirs == stock(zoo[name], out / "tasks", architecture), name


def check_adapter(architecture: Architecture, zoo: dict[str, Path], out: Path) -> None:
    """A LoRA adapter of PEFT is merged as PEFT applies it."""
    import peft

    model = load(zoo["base"], architecture)
    excluded = ["out_proj"] if "mamba" in model.config.model_type else None  # as PEFT asks
    settings = peft.LoraConfig(
        r=2, lora_alpha=4, target_modules="all-linear", exclude_modules=excluded
    )
    adapted = peft.get_peft_model(model, settings)
    draw = torch.Generator().manual_seed(5)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=draw)
    adapted.save_pretrained(out / "adapter")
    expected = logits(adapted.eval(), architecture)
    build(_of_one(f"{zoo['base']}+{out / 'adapter'}"), out / "model")
    merged = logits(load(out / "model", architecture), architecture)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
    before = logits(load(zoo["base"], architecture), architecture)
    assert not torch.allclose(merged, before, rtol=1e-3, atol=1e-3), "the adapter does nothing"


def check_extraction(architecture: Architecture, zoo: dict[str, Path], out: Path) -> None:
    """An extracted adapter is one that PEFT loads, and merged it is what PEFT makes of it."""
    import peft

    from evomerge.merge.output.extract_lora import extract_lora

    extract_lora(str(zoo["one"]), str(zoo["base"]), out / "adapter", rank=64)
    model = peft.PeftModel.from_pretrained(load(zoo["base"], architecture), out / "adapter")
    by_peft = logits(model.eval(), architecture)
    build(_of_one(f"{zoo['base']}+{out / 'adapter'}"), out / "model")
    torch.testing.assert_close(
        logits(load(out / "model", architecture), architecture), by_peft, rtol=1e-4, atol=1e-4
    )
    before = logits(load(zoo["base"], architecture), architecture)
    assert not torch.allclose(by_peft, before, rtol=1e-3, atol=1e-3), "PEFT finds no layer of it"


def check_study(architecture: Architecture, zoo: dict[str, Path], out: Path) -> None:
    """Three trials end in a verdict and in a model that transformers loads."""
    study = Study(StudyConfig.from_dict(study_document(zoo, out), out), out / "run")
    study.confirm()
    folder = out / "run" / "best" / "model"
    assert torch.isfinite(logits(load(folder, architecture), architecture)).all()
    assert set(FILES) <= {file.name for file in folder.iterdir()}


def outcome_of(
    check: str, architecture: Architecture, zoo: dict[str, Path], out: Path
) -> str | None:
    """``yes``, the line by which it is refused, or ``None`` where the check is for other models."""
    if check in ("search", "study") and not architecture.is_language_model:
        return None
    out.mkdir()
    try:
        CHECKS[check](architecture, zoo, out / "out" if check in ("passthrough", "linear") else out)
    except (UserError, RefusedError) as error:
        line = str(error)
        assert "\n" not in line, line
        for path in (*zoo.values(), out):
            line = line.replace(str(path), "MODEL" if path in zoo.values() else "FOLDER")
        return line
    return "yes"


def study_document(zoo: dict[str, Path], out: Path, trials: int = 3) -> dict[str, Any]:
    """A study file over the zoo and one task."""
    write_task(out / "tasks")
    return {
        "base_model": str(zoo["base"]),
        "models": [str(zoo["one"]), str(zoo["two"])],
        "space": "global_linear",
        "evaluate": {
            "tasks": [{"name": "corpus_choice"}],
            "include_path": [str(out / "tasks")],
            "batch_size": 8,
            "items": {"search": 0.5, "race": 0.2, "holdout": 0.3, "per_generation": 8},
        },
        "search": {"optimizer": "random", "trials": trials, "seed": 0, "random_share": 0.0},
        "workers": {"backend": "local", "count": 1, "device": "cpu"},
        "output": {"dtype": "float32"},
    }


def stock(folder: Path, tasks: Path, architecture: Architecture) -> dict[int, float]:
    """The stock harness's metric of each item of a model's folder."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    loaded = TaskManager(include_path=str(tasks), include_defaults=False).load([*ITEMS])
    if architecture.loader == CAUSAL:
        model = HFLM(pretrained=str(folder), dtype="float32", batch_size=8, device="cpu")
    else:  # the stock command loads no such wrapper for text tasks; its harness takes a model
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = HFLM(load(folder, architecture), tokenizer=tokenizer, batch_size=8, device="cpu")
    results = lm_eval.evaluate(model, loaded, bootstrap_iters=0)
    return {row["doc_id"]: float(row["acc"]) for row in results["samples"]["corpus_choice"]}


CHECKS = {
    "passthrough": check_passthrough,
    "linear": check_linear,
    "search": check_search,
    "adapter": check_adapter,
    "extraction": check_extraction,
    "study": check_study,
}


def _of_one(model: Path | str) -> Recipe:
    return Recipe.from_dict({"merge_method": "passthrough", "models": [{"model": str(model)}]})


def _mean(zoo: dict[str, Path]) -> Recipe:
    weights = (("one", 0.3), ("two", 0.7))
    return Recipe.from_dict(
        {
            "merge_method": "linear",
            "base_model": str(zoo["base"]),
            "models": [{"model": str(zoo[n]), "parameters": {"weight": w}} for n, w in weights],
            "dtype": "float32",
        }
    )


def _answered(answer: Any) -> Any:
    if isinstance(answer, Failure):
        if answer.kind == "user":
            raise RefusedError(answer.message)
        raise AssertionError(f"{answer.kind}: {answer.message}")
    return answer


def _without(value: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, keys) for k, v in value.items() if k not in keys}
    return value
