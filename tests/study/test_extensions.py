"""Methods and optimizers of one's own: from files, by consent, the same in every process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import evomerge as em
from evomerge import methods, optimizers
from evomerge.core import plugins
from evomerge.core.errors import UserError
from evomerge.methods import registry as method_registry
from evomerge.optimizers import registry as optimizer_registry
from evomerge.study.config import StudyConfig
from evomerge.study.extensions import load_extensions
from evomerge.study.versions import versions
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Failure
from evomerge.study.workers.start import start
from evomerge.testing import MethodConformance, OptimizerConformance
from tests.study.small_study import real_study

METHOD = """
from typing import Annotated

import evomerge as em
from evomerge.methods import Doc, Range


@em.merge_method(reference="Nobody 2026, https://example.org")
def half_way(
    base,
    models,
    share: Annotated[float, Range(0, 1), Doc("How far to go.")] = SHARE,
):
    "Go some way from the base to the mean of the models."
    return base + share * (sum(models) / len(models) - base)
"""
OPTIMIZER = """
from evomerge.optimizers import Optimizer


class Corners(Optimizer):
    "Ask for the start and for corners of the unit cube, in turn."

    def _begin(self):
        self._round = 0

    def _propose(self):
        self._round += 1
        corner = [float((self._round >> i) & 1) for i in range(self._coordinates.size)]
        point = self._coordinates.point(corner)
        return [self._initial if i % 2 == 0 else point for i in range(self.population)]

    def _learn(self, points, fitness):
        pass
"""


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr(method_registry, "METHODS", dict(method_registry.METHODS))
    monkeypatch.setattr(optimizer_registry, "_REGISTERED", {})
    before = dict(plugins.LOADED)
    yield
    for name in [name for name in sys.modules if name.startswith(plugins.OWN)]:
        del sys.modules[name]
    plugins.LOADED.clear()
    plugins.LOADED.update(before)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(METHOD.replace("SHARE", "0.5"))
    return file


def document(**changed: Any) -> dict[str, Any]:
    return {
        "base_model": "base",
        "models": ["a"],
        "space": {"merge_method": "half_way", "models": ["*"], "parameters": {"share": "search"}},
        "evaluate": {"tasks": ["t"], "allow_task_code": True},
        "methods": ["mine.py:half_way"],
        **changed,
    }


def test_a_study_registers_the_method_of_a_file_with_its_hash(tmp_path: Path, mine: Path) -> None:
    config = StudyConfig.from_dict(document(), tmp_path)
    assert config.methods == (f"{mine}:half_way",)
    load_extensions(config)
    merged = methods.get("half_way").apply(torch.zeros(2), [torch.ones(2)], {})
    assert torch.equal(merged, torch.full((2,), 0.5))
    first = versions()["file mine.py"]
    mine.write_text(METHOD.replace("SHARE", "0.25"))
    load_extensions(config)
    merged = methods.get("half_way").apply(torch.zeros(2), [torch.ones(2)], {})
    assert torch.equal(merged, torch.full((2,), 0.25))
    assert versions()["file mine.py"] != first


def test_code_is_not_run_without_consent(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('was run')")
    with pytest.raises(UserError, match=r"methods: mine\.py:half_way is code; read it, then set"):
        StudyConfig.from_dict(document(evaluate={"tasks": ["t"]}), tmp_path)


@pytest.mark.parametrize(
    ("entry", "text", "message"),
    [
        ("mine.py:half_way", "x = 1", "mine.py has no half_way"),
        ("mine.py:half_way", "def half_way(): pass", "put @evomerge.merge_method"),
        ("mine.py:half_way", "1 / 0", "cannot be imported: ZeroDivisionError"),
        ("other.py:half_way", "", "there is no file other.py"),
        ("mine:half_way", "", "expected FILE.py:NAME, but got"),
        ("mine.py:ties", METHOD.replace("half_way", "ties"), "already registered"),
    ],
)
def test_what_is_no_method_is_refused_by_its_name(
    tmp_path: Path, entry: str, text: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(text.replace("SHARE", "0.5"))
    config = StudyConfig.from_dict(document(methods=[entry]), tmp_path)
    with pytest.raises(UserError) as error:
        load_extensions(config)
    assert message in str(error.value)


def test_a_worker_loads_the_file_and_refuses_one_that_changed(tmp_path: Path) -> None:
    study = real_study(tmp_path / "real")
    about = json.loads(study.read_text())
    (study.parent / "mine.py").write_text(METHOD.replace("SHARE", "0.5"))
    about["methods"] = ["mine.py:half_way"]
    about["evaluate"]["allow_task_code"] = True
    config = StudyConfig.from_dict(about, study.parent)
    load_extensions(config)
    message = {**json.loads(json.dumps(config.to_dict())), "versions": versions()}
    assert isinstance(start(message), Evaluator)
    changed = {**versions(), "file mine.py": "0123456789ab"}
    answer = start({**message, "versions": changed})
    assert isinstance(answer, Failure)
    assert "file mine.py 0123456789ab -> " in answer.message


def test_an_optimizer_of_a_file_is_known_by_its_class(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OPTIMIZER)
    given = document(methods=None, optimizers=["mine.py:Corners"])
    load_extensions(StudyConfig.from_dict(given, tmp_path))
    optimizer = optimizers.create("Corners", population=4)
    assert optimizers.name_of(optimizer) == "Corners"
    assert "Corners" in optimizers.names()
    with pytest.raises(UserError, match="unknown option of optimizer Corners 'sigma'"):
        optimizers.create("Corners", sigma=1)


def test_names_that_come_with_evomerge_cannot_be_taken() -> None:
    with pytest.raises(UserError, match="'random' comes with evomerge"):
        em.register_optimizer("random", em.RandomSearch)
    with pytest.raises(UserError, match="expected a subclass of Optimizer"):
        em.register_optimizer("mine", int)  # type: ignore[arg-type]


def add_up(base: torch.Tensor, models: list[torch.Tensor]) -> torch.Tensor:
    """Add up all changes."""
    return base + sum(model - base for model in models)


def test_a_function_is_registered_without_a_decorator() -> None:
    em.register_method(add_up, reference="Nobody 2026, https://example.org")
    merged = methods.get("add_up").apply(torch.ones(1), [torch.ones(1) * 3] * 2, {})
    assert merged.item() == 5


def test_installed_packages_are_found_by_their_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "plugin-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(
        "[evomerge.methods]\nhalf_way = plugin_of_test:half_way\n"
        "[evomerge.optimizers]\ncorners = plugin_of_test:Corners\n"
    )
    text = METHOD.replace("SHARE", "0.5") + OPTIMIZER
    (tmp_path / "plugin_of_test.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    plugins.installed.cache_clear()
    try:
        assert methods.get("half_way").parameter("share").default == 0.5
        assert optimizers.create("corners", population=4).options == {"population": 4}
        assert versions()["plugin"] == "1.2"
    finally:
        plugins.installed.cache_clear()


class TestTies(MethodConformance):
    method: ClassVar[str] = "ties"


class TestRandomSearch(OptimizerConformance):
    def make(self, **options: Any) -> em.Optimizer:
        return em.RandomSearch(**options)


def test_the_suites_find_what_is_wrong() -> None:
    def careless(base: torch.Tensor, models: list[torch.Tensor]) -> torch.Tensor:
        """Write to the base and draw from the global generator."""
        base += torch.randn(base.shape)
        return base + 0 * models[0]

    em.register_method(careless, reference="Nobody 2026, https://example.org")
    suite = type("Careless", (MethodConformance,), {"method": "careless"})()
    with pytest.raises(AssertionError, match="an input was written to"):
        suite.test_the_result_is_finite_new_and_shaped_like_the_inputs_which_stay()
    with pytest.raises(AssertionError, match="use the argument `random`"):
        suite.test_no_global_generator_is_touched()

    class Forgetful(em.RandomSearch):
        def _propose(self) -> Any:
            self._generator = __import__("numpy").random.default_rng()
            return [
                tuple(d.low + self._generator.random() for d in self._coordinates.dimensions)
                for _ in range(self.population)
            ]

    suite = type("Search", (OptimizerConformance,), {"make": lambda _, **o: Forgetful(**o)})()
    with pytest.raises(AssertionError):
        suite.test_the_same_seed_asks_for_the_same_points()
