"""The reference pages are written from the code, and say all of it."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

import evomerge as em
from evomerge import methods
from evomerge.cli.parser import make_parser
from evomerge.core import yaml_file
from evomerge.study.config import StudyConfig

ROOT = Path(__file__).parents[2]
PYTHON_REFERENCE = ROOT / "docs" / "python_reference.py"


@pytest.fixture(scope="module")
def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    return module


def configs(kind: Any) -> list[Any]:
    classes = [kind]
    for hint in typing.get_type_hints(kind).values():
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part):
                classes += [*configs(part), *part.__subclasses__()]
    return classes


def test_every_key_of_a_study_file_is_described(generator: Any) -> None:
    page = generator.study_file()
    for kind in configs(StudyConfig):
        for field in dataclasses.fields(kind):
            row = re.search(rf"^\| \[?`{field.name}`.*\|$", page, re.M)
            assert row, f"{kind.__name__}.{field.name}"
            cells = [cell.strip() for cell in row[0].strip("|").split(" | ")]
            assert len(cells[-1]) > 10, f"{kind.__name__}.{field.name} has no words"


def test_every_method_and_parameter_is_listed(generator: Any) -> None:
    page = generator.methods()
    for spec in methods.registered():
        section = page.partition(f"\n## {spec.name}\n")[2].partition("\n## ")[0]
        assert spec.reference.split(",")[0] in section
        for parameter in spec.parameters:
            assert f"\n| `{parameter.name}`" in section


def test_optimizers_list_only_the_options_that_they_take(generator: Any) -> None:
    page = generator.optimizers()
    sections = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    fixed = {"tpe": "sampler", "gp": "sampler", "nsga2": "sampler", "sepcma": "diagonal"}
    for name, option in fixed.items():
        assert f"| `{option}`" not in sections[name]
    assert "| `sampler`" in sections["optuna"]


def test_methods_have_their_formulas_and_nothing_is_called_by_pythons_words(generator: Any) -> None:
    page = generator.methods()
    ties = page.partition("\n## ties\n")[2].partition("\n## ")[0]
    assert "```text\nd_i  = w_i * trim(model_i - base, density_i)\n" in ties
    assert ">>>" not in page
    for text in (page, generator.optimizers(), generator.study_file()):
        assert not re.search(r"`(None|True|False)`|(?<!`)``(?!`)", text)


def test_every_public_name_is_in_the_python_reference_with_its_signature() -> None:
    spec = importlib.util.spec_from_file_location("python_reference", PYTHON_REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.page()
    for name in em.__all__:
        assert name == "__version__" or f"\n## em.{name}\n" in page
    assert "\n### Study.tell\n" in page
    assert "\n### em.plot.heldout\n" in page
    assert "em.load_study(" in page
    assert "<factory>" not in page


def test_every_command_is_listed_with_its_options(generator: Any) -> None:
    page = generator.commands()
    for name in make_parser()._subparsers._group_actions[0].choices:  # type: ignore[union-attr, call-overload]
        assert f"\n## {name}\n" in page
    assert "`--deadline DEADLINE`" in page


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("zensical")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "docs/generate.py"], cwd=tmp_path, env=environment, check=True)
    build = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    listed = yaml_file.read(ROOT / "mkdocs.yml")["nav"]
    docs = tmp_path / "docs"
    in_nav = set()
    for part in listed:
        in_nav.update(next(iter(part.values())) if isinstance(part, dict) else [part])
    assert in_nav == {str(file.relative_to(docs)) for file in docs.rglob("*.md")}
    assert len(pages) >= len(in_nav)
    for page in pages:
        loaded = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', page.read_text())
        assert loaded == []
