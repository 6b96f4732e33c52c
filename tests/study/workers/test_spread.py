"""A candidate over several devices: built and scored as on one, each tensor where it lives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, Qwen3Config

from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_model
from evomerge.evaluate.spread import device_map
from evomerge.merge.plan.plan import Ref
from evomerge.study.config import StudyConfig
from evomerge.study.workers import evaluator as evaluator_module
from evomerge.study.workers import scoring as scoring_module
from evomerge.study.workers.devices import devices
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.pool import open_pool
from evomerge.study.workers.ray import RayPool
from evomerge.study.workers.requests import Describe, Evaluate, Scores
from tests.pretend_devices import several_devices
from tests.study.small_study import real_study


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    return StudyConfig.from_yaml(real_study(tmp_path_factory.getbasetemp() / "real-study"))


def recipe(config: StudyConfig, method: str, **parameters: Any) -> dict[str, Any]:
    models = [{"model": model} for model in config.models]
    document = {"merge_method": method, "base_model": config.base_model, "models": models}
    return {**document, "parameters": parameters, "dtype": "float32"}


RECIPES = [
    ("ties", {"weight": 0.5, "density": 0.4}),
    ("model_stock", {}),
]
MORE_RECIPES = [
    ("task_arithmetic", {"weight": 0.5}),
    ("dare_ties", {"weight": 0.5, "density": 0.6}),
    ("della", {"weight": 0.5, "density": 0.6, "epsilon": 0.1}),
    ("breadcrumbs_ties", {"weight": 0.5, "density": 0.6, "gamma": 0.05}),
    ("nuslerp", {"weight": 0.4}),
    ("karcher", {}),
    ("sce", {"select_topk": 0.5}),
    ("ties_global", {"weight": 0.5, "density": 0.5}),
]
Recipes = Sequence[tuple[str, dict[str, Any]]]


def answers(
    config: StudyConfig, on: list[str], recipes: Recipes, patch: pytest.MonkeyPatch
) -> tuple[Evaluator, dict[str, Any]]:
    """A worker on these devices, and its answers."""
    patch.setattr(evaluator_module, "devices", lambda _: on)
    worker = Evaluator(config)
    results: dict[str, Any] = {}
    shards = [{"small_choice": list(range(12)), "small_write": list(range(12))}]
    assert worker.handle(Describe()).device == ", ".join(on)
    for method, parameters in recipes:
        for mode in ("smooth", "metric"):
            merged = recipe(config, method, **parameters)
            answer = worker.handle(Evaluate(merged, shards, mode, digest=True))
            assert isinstance(answer, Scores), (method, answer)
            results[f"{method} {mode}"] = (answer.rows, answer.weights_digest)
    return worker, results


@pytest.mark.parametrize(
    "recipes", [RECIPES, pytest.param(MORE_RECIPES, marks=pytest.mark.slow)], ids=["two", "more"]
)
def test_a_candidate_over_two_devices_is_built_and_scored_as_on_one(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch, recipes: Recipes
) -> None:
    with several_devices() as names:
        _, one = answers(config, names[:1], recipes, monkeypatch)
        worker, two = answers(config, names, recipes, monkeypatch)
        live = {name: t.device for name, t in worker.scoring.models.home.model.state_dict().items()}
        assert {str(device) for device in live.values()} == set(names)
        for model, checkpoint in worker.parents.checkpoints.items():
            for name in checkpoint.tensors:
                device = worker.parents.tensor(Ref(model, name)).device
                assert device == live[name], f"{name} of {model} is not where it is needed"
    assert two == one


def test_a_deeper_candidate_is_spread_over_two_devices_too(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = config.models
    path = [{"model": one}, {"model": two, "layers": [0, 1], "hop": 0.7}, {"model": one}]
    deep = {"base_model": config.base_model, "path": path, "out_dtype": "float32"}
    with several_devices() as names:
        results = []
        for on in (names[:1], names):
            worker, _ = answers(config, on, [], monkeypatch)
            request = Evaluate(deep, [{"small_choice": list(range(12))}], "smooth", digest=True)
            answer = worker.handle(request)
            assert isinstance(answer, Scores), answer
            results.append((answer.rows, answer.weights_digest))
            resident = worker.scoring.models.resident
            assert resident is not None
            devices = {str(p.device) for p in resident[0].model.parameters()}
            assert devices == set(on)
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=4, n_head=2),
        Qwen3Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            tie_word_embeddings=False,
        ),
    ],
    ids=lambda c: c.model_type,
)
def test_other_architectures_give_the_same_logits_over_two_devices(architecture: Any) -> None:
    tokens = torch.randint(64, (3, 9), generator=torch.Generator().manual_seed(0))
    with several_devices() as names, torch.inference_mode():
        results = []
        for on in (names[:1], names):
            model, _ = load_model(architecture, "float32", on)
            generator = torch.Generator().manual_seed(1)
            for _, weight in sorted(model.named_parameters()):
                weight.copy_(torch.randn(weight.shape, generator=generator) / 8)
            results.append(model(input_ids=tokens.to(names[0])).logits.cpu())
            written = model.generate(tokens.to(names[0]), max_new_tokens=5, do_sample=False)
            results.append(written.cpu())
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])


def test_layers_stay_whole_and_in_order_and_tied_weights_together(config: StudyConfig) -> None:
    model, _ = load_model(Path(config.base_model))
    depth = model.config.num_hidden_layers
    for count in (1, 2):
        names = [f"cuda:{i}" for i in range(count)]
        devices_by_part = device_map(model, names)
        layers = [devices_by_part[f"model.layers.{i}"] for i in range(depth)]
        assert layers == sorted(layers)
        assert set(devices_by_part.values()) == set(names)
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        tied = head.weight is embedding.weight
        assert not tied or devices_by_part["lm_head"] == devices_by_part["model.embed_tokens"]
        reached = {name for part in devices_by_part for name in _below(model, part)}
        assert reached == set(model.state_dict(keep_vars=True))


def _below(model: torch.nn.Module, part: str) -> set[str]:
    return {n for n in model.state_dict() if n == part or n.startswith(f"{part}.")}


def test_bytes_are_shared_out_evenly() -> None:
    layers = torch.nn.ModuleList([torch.nn.Linear(8, 8, bias=False) for _ in range(6)])
    model = torch.nn.Sequential(torch.nn.Embedding(16, 8), torch.nn.Module())
    model[1].layers = layers  # type: ignore[assignment]
    devices_by_part = device_map(
        model, ["a", "b"]
    )  # 512 bytes of embedding, 256 a layer: 2,048 in all
    assert devices_by_part == {
        "0": "a",
        **{f"1.layers.{i}": "a" for i in range(2)},
        **{f"1.layers.{i}": "b" for i in range(2, 6)},
    }


@pytest.mark.parametrize(
    ("device", "gpus", "seen", "expected"),
    [
        ("auto", 2.0, 2, ["cuda:0", "cuda:1"]),
        ("cuda", 2.0, 4, ["cuda:0", "cuda:1"]),
        ("auto", 1.0, 2, ["cuda"]),
        ("auto", 0.5, 1, ["cuda"]),
        ("cpu", 2.0, 0, ["cpu"]),
    ],
)
def test_a_worker_takes_the_gpus_that_it_asks_for(
    config: StudyConfig,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    gpus: float,
    seen: int,
    expected: list[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    assert devices(replace(config.workers, device=device, gpus=gpus)) == expected


def test_too_few_gpus_are_an_error_not_a_run_on_the_cpu(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"workers.gpus: each worker is to have 2 GPUs, but .* 0"):
        devices(replace(config.workers, device="auto", gpus=2.0))


@pytest.mark.slow
def test_ray_gives_each_worker_as_many_gpus_as_it_asks_for(
    config: StudyConfig, tmp_path: Path
) -> None:
    import ray

    workers = replace(config.workers, backend="ray", device="cpu", count=2, gpus=2.0)
    ray.init(address="local", num_cpus=4, num_gpus=4, include_dashboard=False)
    try:
        with open_pool(replace(config, workers=workers), tmp_path / "log") as pool:
            assert isinstance(pool, RayPool)
            seen = [a.__ray_call__.remote(_visible) for a in pool._actors]
            assert sorted(ray.get(seen)) == ["0,1", "2,3"]
    finally:
        ray.shutdown()
    with pytest.raises(UserError, match=r"2 of 2 GPUs each need 4, but Ray finds 0 on this"):
        open_pool(replace(config, workers=workers), tmp_path / "log")


def _visible(_actor: Any) -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_the_engine_is_in_the_protocol_from_the_first_description_on(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PretendVllm:
        """Stands in for vLLM, and is never asked to generate here."""

        def __init__(
            self, model: Any, tokenizer: Any, folder: Path, options: dict[str, Any], *_: Any
        ):
            del model, tokenizer, folder
            self.name = pretend_name(options)

    def pretend_name(options: dict[str, Any]) -> str:
        return f"vllm 9.9 {options}"

    monkeypatch.setattr(scoring_module, "engine_name", pretend_name)
    monkeypatch.setattr(scoring_module, "VllmDecoder", PretendVllm)
    by_vllm = replace(config.evaluate, engine="vllm", engine_options={"max_model_len": 64})
    live = Evaluator(config).handle(Describe()).evaluation["digest"]
    worker = Evaluator(replace(config, evaluate=by_vllm))
    digests = [worker.handle(Describe()).evaluation["digest"] for _ in range(2)]
    assert digests == [f"{live} vllm 9.9 {{'max_model_len': 64}}"] * 2
