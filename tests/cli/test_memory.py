"""`check` says what workers hold, whether it fits, and what to do if it does not: by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from evomerge.checkpoint.opening import open_model
from evomerge.cli.memory import memory_lines
from evomerge.study.analysis.memory_plan import MemoryPlan, memory_plan
from evomerge.study.config import StudyConfig
from tests.adapters import make_adapter
from tests.study.small_study import WIDTH, WORDS, real_study, stub_config

GB = 10**9
# 3 parents and the base of 15 GB each, and a live model; half a GB of logits
ON_GPU = MemoryPlan(15 * GB, 60 * GB, GB // 2, 0, 15 * GB, 3 * GB, is_shared=False, tile=4 * GB)
ON_CPU = replace(ON_GPU, is_shared=True)


def lines(plan: MemoryPlan, memory: int, **workers: Any) -> dict[str, str]:
    return dict(memory_lines(plan, stub_config(workers=workers), memory))


def test_a_worker_on_a_gpu_holds_parents_of_its_own() -> None:
    said = lines(ON_GPU, 80 * GB, gpus=1, parents="device")
    assert said["memory"] == (
        "15 GB live model, up to 0.5 GB logits, base and parents 60 GB: 76 GB of 80 GB"
    )
    # 75.5 GB do not leave a tenth of 80 GB
    assert said["warning"].startswith(
        "that does not fit: workers.gpus: 2 holds one worker's over 2"
    )
    assert "not offered are parents as int8 deltas" in said["warning"]
    assert said["disk"] == "15 GB for best/model; up to 3 GB of rankings by magnitude, in the cache"
    assert "warning" not in lines(ON_GPU, 80 * GB, gpus=2)
    assert (
        "151 GB of 160 GB" in lines(ON_GPU, 160 * GB, gpus=0.5, parents="device")["memory"]
    )  # two share it


def test_parents_that_do_not_fit_beside_the_live_model_stay_in_main_memory() -> None:
    said = lines(ON_GPU, 80 * GB, gpus=1)
    assert said["memory"] == (
        "15 GB live model, up to 0.5 GB logits, base and parents 60 GB in main memory, copied for "
        "each candidate in about 6 s: 20 GB of 80 GB"  # 15 + .5 + 4
    )
    assert "warning" not in said
    assert "main memory" not in lines(ON_GPU, 120 * GB, gpus=1)["memory"]
    assert "main memory" in lines(ON_GPU, 120 * GB, gpus=1, parents="host")["memory"]
    assert "main memory" in lines(ON_GPU, 120 * GB, gpus=0.5)["memory"]  # two share it
    small = lines(ON_GPU, 17 * GB, gpus=1)  # 19.5 GB over two cards of which .9 are used
    assert small["warning"].startswith("that does not fit: workers.gpus: 2 holds")


def test_a_model_that_a_gpu_does_not_hold_is_streamed() -> None:
    large = replace(  # 70.6 B parameters in bfloat16: base, three parents; 80 layers
        ON_GPU, live=141 * GB, parents=565 * GB, layers=4 * GB, tile=8 * GB
    )
    said = lines(large, 80 * GB, gpus=1)
    assert said["memory"] == (
        "a candidate's 141 GB are streamed: up to 4 GB of it at a time, 8 GB of one tensor's "
        "parents, 0.5 GB logits, and the states of all items: 12 GB of 80 GB"  # 4 + 8 + .5
    )
    assert said["streamed"] == (
        "each request reads 565 GB of base and parents: 1.1e+02 s at 5 GB/s from disk, "
        "56 s at 10 GB/s where main memory holds them"
    )
    assert "warning" not in said
    assert "does not fit" in lines(large, 8 * GB, gpus=1)["warning"]
    assert "streamed" not in lines(large, 80 * GB, gpus=2), "two hold it"
    assert "streamed" in lines(ON_GPU, 80 * GB, gpus=1, candidate="streamed")


def test_workers_on_a_cpu_share_the_parents() -> None:
    said = lines(ON_CPU, 128 * GB, count=3)
    assert said["memory"].endswith(
        "base and parents 60 GB once, mapped from files: 106 GB of 128 GB"
    )
    assert "warning" not in said
    assert lines(ON_CPU, 0, count=3)["memory"].endswith("mapped from files: 106 GB")  # a cluster
    # .9 * 128 - 60 = 55.2 GB hold three of 15.5
    assert "set workers.count to 3 or" in lines(ON_CPU, 128 * GB, count=4)["warning"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    """A study of two adapters of rank 4 on q and v in each of two layers."""
    study = real_study(tmp_path_factory.getbasetemp() / "real-study")
    folder = tmp_path_factory.mktemp("adapters")
    document = json.loads(study.read_text())
    base = document["base_model"]
    for name in ("one", "two"):
        make_adapter(folder / name, study.parent / base)
    document["models"] = [{"model": base, "adapter": str(folder / n)} for n in ("one", "two")]
    return StudyConfig.from_dict(document, study.parent)


def test_adapters_are_their_factors_on_a_cpu_and_whole_models_on_a_gpu(config: StudyConfig) -> None:
    checkpoints = {name: open_model(name) for name in (config.base_model, *config.models)}
    plan = memory_plan(config, checkpoints, on_gpu=False)
    attention = WIDTH * WIDTH * 2 + WIDTH * WIDTH // 2 * 2  # one of two heads for keys and values
    layer = attention + 3 * WIDTH * WIDTH + 2 * WIDTH
    parameters = (len(WORDS) + 3) * WIDTH + 2 * layer + WIDTH
    assert plan.live == plan.disk == 4 * parameters
    factors = 2 * (4 * (WIDTH + WIDTH) + 4 * (WIDTH + WIDTH // 2)) * 4  # bytes of one adapter
    assert 2 * factors < plan.parents - 4 * parameters < 2 * factors + 8000  # with their headers
    assert plan.computed == 0
    dense = memory_plan(config, checkpoints, on_gpu=True)
    assert dense.parents == 3 * 4 * parameters
    assert dense.computed == 2
    assert plan.batch == 4 * 8 * 64 * (len(WORDS) + 3)  # rows, tokens, vocabulary
