"""The scripts of experiments/ run on today's code: each is imported, some do a small thing."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.study.small_study import write_models, write_tasks

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SCRIPTS = sorted(
    str(file.relative_to(EXPERIMENTS))
    for file in EXPERIMENTS.glob("*/*.py")
    if "__main__" in file.read_text(encoding="utf-8")  # others do their work when imported
)

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Import a script as Python runs it: its folder comes first, its neighbours by bare names."""
    before = set(sys.modules)

    def loaded(script: str) -> ModuleType:
        file = EXPERIMENTS / script
        monkeypatch.syspath_prepend(file.parent)
        return importlib.import_module(file.stem)

    yield loaded
    for name in set(sys.modules) - before:
        if str(EXPERIMENTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models and tasks under the names that the demo's have."""
    home = tmp_path_factory.mktemp("experiments") / "zoo"
    write_models(home)
    write_tasks(home / "hidden", home / "tasks")
    for expert in ("one", "two"):
        (home / expert).rename(home / f"expert-{expert}")
    for kind, name in (("choice", "demo_pick"), ("write", "demo_write")):
        file = home / "tasks" / f"small_{kind}.yaml"
        text = file.read_text(encoding="utf-8").replace(f"small_{kind}", name)
        (home / "tasks" / f"{name}.yaml").write_text(text, encoding="utf-8")
        file.unlink()
    return home


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_imports(load: Load, script: str) -> None:
    if script == "fuzz/run.py":
        pytest.importorskip("atheris")  # which is in an environment of its own
    assert callable(getattr(load(script), "main", print))


def test_a_candidate_is_timed_against_its_forward_pass(load: Load, zoo: Path) -> None:
    measure = load("evaluation_speed/measure.py")
    models = [zoo / "expert-one", zoo / "expert-two"]
    config = measure.study(zoo / "base", models, zoo / "tasks", ["demo_pick"])
    result = measure.measured(config, "smooth", 1)
    assert result["candidate_over_forward"]["median"] > 0
    assert 1 <= result["tokens_over_minimum"] < 1.5
    assert result["plain_tokens_over_minimum"] >= 1
    assert result["hflm_over_ours"]["median"] > 0


def test_results_of_all_parts_are_put_together(load: Load, tmp_path: Path) -> None:
    (tmp_path / "zoo.json").write_text('{"a": 1}')
    (tmp_path / "soak.jsonl").write_text('{"b": 2}\n{"b": 3}\n')
    table = load("evaluation_speed/assemble.py").assemble(tmp_path)
    assert (table["zoo"], table["soak"]) == ({"a": 1}, [{"b": 2}, {"b": 3}])
    assert "peers" not in table
    assert table["torch"]


def test_sleeping_workers_search(load: Load, capsys: pytest.CaptureFixture[str],
                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    run = load("worker_throughput/run.py")
    monkeypatch.setattr(run.study_module, "open_pool", run.SleepingPool)
    run.growth(120, "growth", "random")
    printed = json.loads(capsys.readouterr().out)
    assert printed["trials"] == 120
    assert printed["last_ms"] > 0


def test_a_resume_is_measured(load: Load, capfd: pytest.CaptureFixture[str],
                              monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    run = load("worker_throughput/run.py")
    monkeypatch.setattr(run.study_module, "open_pool", run.SleepingPool)

    def here(words: list[str], **_: bool) -> None:
        run.again(Path(words[3]), words[4], *map(int, words[5:]))

    monkeypatch.setattr(run.subprocess, "run", here)
    run.resume("random", 40)
    printed = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert len(printed) == 3
    assert all(one["trials"] > 40 and one["resume_seconds"] > 0 for one in printed)


def test_an_optimizer_benchmark_search_ends(load: Load, zoo: Path) -> None:
    bench = load("optimizer_benchmark/bench.py")
    judge = bench.Judge(zoo)
    arm = bench.ARMS["random"]
    result = bench.Search(judge, arm, "global", 0, 200).run()
    assert 0 <= result["held_out"] <= 1
    assert result["item_evaluations"] > 0


def test_a_merge_is_timed(load: Load, tmp_path: Path) -> None:
    measure = load("merge_throughput/measure.py")
    shapes = measure.shapes(1, 16, 24, 32)
    small = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "vocab_size": 32}
    small |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    measure.make_models(tmp_path, shapes, **small)
    parents = measure.Parents([str(tmp_path / name) for name in measure.NAMES])
    live = measure.Live(shapes)
    assert measure.seconds(measure.candidate, live, parents, tmp_path, "ties", 0) > 0
    assert any(tensor.any() for tensor in live.tensors.values())
