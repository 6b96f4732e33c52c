"""Bad and hostile inputs: code 2, one line, no traceback, quickly, and nothing else is touched."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge import optimizers as search
from evomerge.cli import main
from evomerge.core.errors import UserError
from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from tests.checkpoint.files.test_damaged_weights import mutated
from tests.faults.bad_inputs import BadInput, corpus
from tests.models import make_family

SAMPLE = 29  # every so many of the corpus in the default suite
REAL = 12  # ... and as processes of their own, in the whole
SECONDS = 1.0  # of the processor: a busy machine is not the input's doing
HUNG = 10.0  # by the clock, for what waits without working
MEGABYTES = 50  # of the process itself; its child has 180 (test_large_inputs.py has the largest)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two models, and a folder outside of them that nobody may read."""
    home = tmp_path_factory.mktemp("family")
    make_family(home / "zoo")
    outside = home / "outside"
    outside.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        file = home / "zoo" / "b" / name
        (outside / name).write_bytes(file.read_bytes() if file.exists() else b"{}")
    shutil.copyfile(home / "zoo" / "b" / "model.safetensors", outside / "secret.safetensors")
    return home


class Watch:
    """Notes which files of folders called ``outside`` are opened; an audit hook stays for ever."""

    on = False
    seen: list[str] = []  # noqa: RUF012 - one for all

    @classmethod
    def hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if cls.on and event == "open" and "/outside/" in str(arguments[0]):
            cls.seen.append(str(arguments[0]))


@pytest.fixture(scope="session")
def watch() -> type[Watch]:
    sys.addaudithook(Watch.hook)
    return Watch


def memory() -> float:
    """Most memory that this process ever held, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def home_of(family: Path, folder: Path) -> Path:
    shutil.copytree(family, folder, symlinks=True)
    return folder


def problem(
    bad: BadInput, home: Path, capsys: pytest.CaptureFixture[str], watch: type[Watch]
) -> str | None:
    """What is wrong with how a bad input is met; ``None`` if nothing is."""
    words = bad.spoil(home)
    before = sorted(os.listdir(home))
    capsys.readouterr()
    watch.seen.clear()
    bytes_before, began, watch.on = memory(), (time.process_time(), time.perf_counter()), True
    try:
        code = main(words)
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        watch.on = False
    took, waited = time.process_time() - began[0], time.perf_counter() - began[1]
    message = capsys.readouterr().err
    problems = []
    if code != 2:
        problems.append(f"code {code}")
    if not message.startswith("evomerge: error: ") or message.count("\n") != 1:
        problems.append(f"told: {message[-300:]!r}")
    if took > SECONDS:
        problems.append(f"took {took:.1f} s")
    if waited > HUNG:
        problems.append(f"waited {waited:.1f} s")
    if memory() - bytes_before > MEGABYTES:
        problems.append(f"took {memory() - bytes_before:.0f} MB")
    if watch.seen:
        problems.append(f"read {watch.seen[0]}")
    if sorted(os.listdir(home)) not in (before, sorted([*before, "run"])):
        problems.append(f"left {sorted(os.listdir(home))}")
    if (home / "CANARY").exists():
        problems.append("ran code")
    return f"{bad.name}: {'; '.join(problems)}" if problems else None


def meet(
    inputs: list[BadInput],
    family: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    watch: type[Watch],
) -> list[str]:
    problems = []
    for optimizer in ("catcma", "cmaes"):  # what is imported once is not the input's doing
        search.create(optimizer)
    whole = home_of(family, tmp_path / "whole")
    assert main(_whole_build(whole)) == 0
    for number, bad in enumerate(inputs):
        home = home_of(family, tmp_path / str(number))
        message = problem(bad, home, capsys, watch)
        shutil.rmtree(home)
        if message:
            problems.append(message)
    return problems


def _whole_build(home: Path) -> list[str]:
    document = {
        "merge_method": "linear",
        "models": [{"model": str(home / "zoo" / m), "parameters": {"weight": 1}} for m in "ab"],
    }
    (home / "recipe.yaml").write_text(json.dumps(document))
    return ["build", str(home / "recipe.yaml"), str(home / "out")]


def test_a_sample_of_the_bad_inputs_is_told_in_one_line(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], watch: type[Watch]
) -> None:
    assert not meet(corpus()[::SAMPLE], family, tmp_path, capsys, watch)


@pytest.mark.slow
def test_every_bad_input_is_told_in_one_line(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], watch: type[Watch]
) -> None:
    inputs = corpus()
    assert len(inputs) >= 300
    problems = meet(inputs, family, tmp_path, capsys, watch)
    with capsys.disabled():
        print(f"\nbad inputs: {len(inputs) - len(problems)}/{len(inputs)} told in one line")
    assert not problems, "\n".join(problems)


IMPORTS = """
import evomerge.cli.display.progress, evomerge.study.study, evomerge.merge.build, evomerge.report
import evomerge.calibration.make, transformers.models.llama.modeling_llama
from evomerge import optimizers as search
for name in ("catcma", "cmaes"):
    search.create(name)
"""


# Linux counts what the parent held as its child's, so a small parent tells.
SMALL_PARENT = """
import json, os, sys
process = os.fork()
if not process:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
_, status, used = os.wait4(process, 0)
code = os.waitstatus_to_exitcode(status)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]), flush=True)
"""


def spent(*words: str) -> tuple[int, str, float, float]:
    """Python in a process of its own: code, stderr, seconds of the processor, megabytes."""
    command = [sys.executable, "-SE", "-c", SMALL_PARENT, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    return code, done.stderr, seconds, megabytes


@pytest.mark.slow
def test_bad_inputs_are_told_in_one_line_by_a_process_of_its_own(
    family: Path, tmp_path: Path
) -> None:
    code, message, least_seconds, least_megabytes = min(spent("-c", IMPORTS) for _ in range(3))
    assert code == 0, message
    worst = [0.0, 0.0]
    inputs = corpus()[::REAL]
    for number, bad in enumerate(inputs):
        home = home_of(family, tmp_path / str(number))
        words = bad.spoil(home)
        code, message, seconds, megabytes = spent("-m", "evomerge", *words)
        for _ in range(2):  # what a busy machine adds is not the input's doing
            if seconds - least_seconds >= SECONDS:
                seconds = min(seconds, spent("-m", "evomerge", *words)[2])
        assert code == 2, (bad.name, message)
        assert message.startswith("evomerge: error: "), (bad.name, message)
        assert message.count("\n") == 1, (bad.name, message)
        assert seconds - least_seconds < SECONDS, bad.name
        assert megabytes - least_megabytes < MEGABYTES, bad.name
        assert not (home / "CANARY").exists(), bad.name
        worst = [max(worst[0], seconds), max(worst[1], megabytes)]
    print(
        f"\n{len(inputs)} processes took at most {worst[0]:.1f} s and {worst[1]:.0f} MB; "
        f"imports take {least_seconds:.1f} s and {least_megabytes:.0f} MB"
    )


@pytest.mark.slow
def test_three_thousand_mutated_weight_files_load_or_are_told_in_one_line(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = home_of(family, tmp_path / "home")
    words = _whole_build(home)
    file = home / "zoo" / "b" / "model.safetensors"
    whole, draw = file.read_bytes(), random.Random(2026)
    codes = {0: 0, 2: 0}
    began = memory()
    for _ in range(3000):
        file.write_bytes(mutated(whole, draw))
        shutil.rmtree(home / "out", ignore_errors=True)
        capsys.readouterr()
        started = time.process_time()
        code = main(words)
        took, message = time.process_time() - started, capsys.readouterr().err
        assert code in codes, message
        codes[code] += 1
        assert took < SECONDS
        if code:
            assert message.startswith("evomerge: error: ")
            assert message.count("\n") == 1
    assert memory() - began < MEGABYTES
    with capsys.disabled():
        print(f"\nmutated weights: {codes[2]} refused, {codes[0]} loaded, 0 crashed")


# -- what nobody thought of ------------------------------------------------------------------------

_WORDS = """
base_model models space evaluate search workers output tasks name metric weight items trials filter
merge_method parameters density lambda dtype slices sources layer_range blocks layers components
seed include_path optimizer options choice low high knots model value
"""
_KEYS = st.sampled_from(_WORDS.split())
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["ties", "linear", "search", "*", "*1", "base", "float32", "8h", "auto"]),
)
_DOCUMENTS = st.dictionaries(
    _KEYS,
    st.recursive(
        _LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
        max_leaves=12,
    ),
    max_size=8,
)


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nowhere")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(_DOCUMENTS)
def test_any_document_is_a_recipe_or_the_users_mistake(document: dict[str, Any]) -> None:
    whole = {"merge_method": "ties", "base_model": "b", "models": [{"model": "m"}], **document}
    for part in (document, whole):
        with contextlib.suppress(UserError):
            Recipe.from_dict(part)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(_DOCUMENTS)
def test_any_document_is_a_study_or_the_users_mistake(
    nowhere: Path, document: dict[str, Any]
) -> None:
    whole = {
        "base_model": "b",
        "models": ["m"],
        "space": "ties_by_depth",
        "evaluate": {"tasks": ["t"]},
        **document,
    }
    for part in (document, whole):
        with contextlib.suppress(UserError):
            StudyConfig.from_dict(part, nowhere)
