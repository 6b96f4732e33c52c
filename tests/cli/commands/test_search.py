"""`evomerge search` and `check`: what they print, how they end, and how they go on."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evomerge.cli.display import progress as progress_module
from evomerge.cli.display.progress import Progress
from evomerge.core import yaml_file
from evomerge.study.config import StudyConfig
from evomerge.study.study import JOURNAL, Study
from tests.cli.conftest import Run
from tests.study.small_study import PYTHON, StubWorkers, events, paid, stub_executable, substance
from tests.study.study_driver import Drivers

StudyFile = Callable[..., Path]


def test_a_search_prints_its_steps_and_the_paths_of_its_results(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = evomerge("search", stub_study(), run)
    assert result.code == 0
    assert result.err == ""
    firsts = [line.split(":")[0] for line in result.out.splitlines() if ":" in line]
    for step in ("check", "anchors", "search", "race", "verdict", "export"):
        assert step in firsts, result.out
    assert "generation 3, 16/16 trials" in result.out
    verdict = json.loads((run / "verdict.json").read_text())
    assert verdict["sentence"] in result.out
    for file in ("report.html", "best/recipe.yaml", "best/model", "verdict.json"):
        assert str(run / file) in result.out
        assert (run / file).exists()


def test_the_same_command_again_says_the_same_at_once(
    evomerge: Run, stub_study: StudyFile, stub_workers: StubWorkers, tmp_path: Path
) -> None:
    run, study = tmp_path / "run", stub_study()
    first = evomerge("search", study, run)
    stub_workers(broken=True)
    second = evomerge("search", study, run)
    assert second.code == 0
    assert first.out.endswith(second.out.lstrip("\n"))


def test_options_stand_in_for_the_study_files(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = evomerge(
        "search", stub_study(), run, "--trials", 8, "--workers", 1, "--deadline", "1h"
    )
    assert result.code == 0
    config = events(run, "study")[0]["config"]
    assert config["search"]["trials"] == 8
    assert config["search"]["deadline"] == "1h"
    assert config["workers"]["count"] == 1
    assert len(events(run, "told")) == 2


def wait_for_events(run: Path, count: int, output: Path) -> None:
    deadline = time.monotonic() + 60
    while not (run / JOURNAL).exists() or len(events(run)) < count:
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.01)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_search_says_how_to_go_on_and_does(
    evomerge: Run,
    stub_study: StudyFile,
    drivers: Drivers,
    tmp_path: Path,
    end: signal.Signals,
) -> None:
    run, study = tmp_path / "run", stub_study()
    assert evomerge("search", study, tmp_path / "whole").code == 0
    output = tmp_path / "output"
    arguments = ["search", str(study), str(run)]
    driver = drivers.start(
        arguments=arguments,
        executable=stub_executable(tmp_path),
        environment={"STUB_WORKER": json.dumps({"seconds": 0.02})},
        log=output,
    )
    wait_for_events(run, 40, output)
    if end == signal.SIGINT:
        os.killpg(driver, end)  # as a terminal does, to the workers too
    else:
        os.kill(driver, end)
    assert drivers.wait() == 130
    last = output.read_text().splitlines()[-1]
    assert last.endswith(f"To resume: {shlex.join(['evomerge', *arguments])}")
    assert "Traceback" not in output.read_text()
    assert evomerge(*shlex.split(last.partition("To resume: evomerge ")[2])).code == 0
    assert substance(run) == substance(tmp_path / "whole")
    assert set(paid(run).values()) == {1}


def test_a_second_driver_is_refused_and_the_first_goes_on(
    evomerge: Run, stub_study: StudyFile, drivers: Drivers, tmp_path: Path
) -> None:
    run, study = tmp_path / "run", stub_study()
    driver = drivers.start(
        arguments=["search", str(study), str(run)],
        executable=stub_executable(tmp_path),
        environment={"STUB_WORKER": json.dumps({"seconds": 0.01})},
        log=tmp_path / "output",
    )
    wait_for_events(run, 10, tmp_path / "output")
    result = evomerge("search", study, run)
    assert result.code == 2
    assert f"journal.log is in use by process {driver} on " in result.err
    assert result.err.count("\n") == 1
    assert evomerge("status", run).code == 0
    assert drivers.wait() == 0
    assert (run / "verdict.json").exists()


def test_a_search_whose_reader_leaves_is_interrupted_and_resumes(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    run, study = tmp_path / "run", stub_study()
    program = (
        "import sys\nfrom evomerge.cli import main\n"
        f"sys.executable = {stub_executable(tmp_path)!r}\n"
        f"sys.exit(main(['search', {str(study)!r}, {str(run)!r}]))\n"
    )
    root = Path(__file__).parents[3]
    search = subprocess.Popen(
        [PYTHON, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=root,
    )
    assert search.stdout is not None
    assert search.stderr is not None
    search.stdout.readline()
    search.stdout.close()
    complaint = search.stderr.read().decode()
    search.stderr.close()
    assert search.wait() == 130, complaint
    assert "Traceback" not in complaint
    assert evomerge("search", study, run).code == 0


def test_the_live_panel_shows_what_a_person_wants_to_know(
    stub_study: StudyFile, tmp_path: Path
) -> None:
    config = StudyConfig.from_yaml(stub_study(search={"trials": 8, "deadline": "2h"}))
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, highlight=False, width=160)
    progress = Progress(config, console=console)
    with progress:
        Study(config, tmp_path / "run", progress).confirm()
    shown = screen.getvalue()
    for word in ("phase", "8 of 8", "best parent", "best anchor", "over the reference anchor"):
        assert word in shown
    for word in ("trials/s", "items/s", "failures", "deadline in 2 h"):
        assert word in shown, shown[-3000:]
    assert "search: generation 1, 8/8 trials" in shown


def test_a_pipe_gets_a_sign_of_life_between_its_lines(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = evomerge("search", stub_study(search={"trials": 4}), tmp_path / "quiet").out
    assert "anchors: scored" not in quiet
    monkeypatch.setattr(progress_module, "QUIET_SECONDS", -1.0)
    said = evomerge("search", stub_study(search={"trials": 4}), tmp_path / "said").out
    for phase in ("anchors", "search", "race", "verdict"):
        assert f"\n{phase}: scored " in said, phase


def test_of_generations_of_one_trial_every_tenth_has_a_line(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    steps = {"optimizer": "random", "trials": 12, "population": 1}
    lines = evomerge("search", stub_study(search=steps), tmp_path / "run").out.splitlines()
    counted = [line.split(",")[0] for line in lines if line.startswith("search: generation")]
    assert counted == ["search: generation 0", "search: generation 10"]


def test_trials_that_fit_into_no_generation_are_announced(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    out = evomerge("search", stub_study(search={"trials": 11}), tmp_path / "run").out
    announced = out.index("warning: search.trials: 11 allows whole generations of 4 for 8 trials")
    assert announced < out.index("search: generation 0")
    assert "search: generation 1, 8/11 trials" in out
    assert "generation 2" not in out
    whole = evomerge("search", stub_study(search={"trials": 8}), tmp_path / "whole").out
    assert "search.trials" not in whole


# -- check -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("real_workers")
def test_check_shows_every_default_and_a_forecast_and_leaves_nothing(
    evomerge: Run, small_study: StudyFile, tmp_path: Path
) -> None:
    study = small_study()
    before = sorted(tmp_path.rglob("*"))
    result = evomerge("check", study, "--config")
    assert result.code == 0, result.err
    shown, _, forecast = result.out.partition("\n\n")
    config: dict[str, Any] = yaml_file.parse(shown, "shown")
    assert config == StudyConfig.from_yaml(study).to_dict()
    assert config["evaluate"]["fitness"] == "smooth"
    for row in (
        *(
            "parents",
            "device",
            "tasks",
            "items",
            "space",
            "trial",
            "forecast",
            "workers",
            "resolves",
        ),
        *("parents, on", "between two models,"),
    ):
        assert f"\n{row} " in f"\n{forecast}", forecast
    line = next(line for line in forecast.splitlines() if line.startswith("forecast"))
    for phase in ("anchors", "search", "race", "verdict"):
        assert f"{phase} " in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("real_workers")
def test_a_small_real_study_from_check_to_report(
    evomerge: Run, small_study: StudyFile, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = evomerge("search", small_study(), run)
    assert result.code == 0, result.err
    model = run / "best" / "model"
    for file in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        assert (model / file).is_file()
    assert events(run, "exported")[0]["weights_digest"]
    again = tmp_path / "again"
    built = evomerge("build", run / "best" / "recipe.yaml", again)
    assert built.out.splitlines()[-1] == events(run, "exported")[0]["weights_digest"]
    recommended = evomerge("build", run, tmp_path / "recommended")
    assert recommended.out.splitlines()[-1] == built.out.splitlines()[-1]
    average = evomerge("build", run, tmp_path / "base", "--trial", 0).out.splitlines()[-1]
    assert average != built.out.splitlines()[-1]
    result = evomerge("build", run, tmp_path / "none", "--trial", 999)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "there is no trial 999; the last one is " in result.err


@pytest.mark.slow
def test_the_stock_lm_eval_command_prints_the_verdicts_numbers(
    evomerge: Run, small_study: StudyFile, tmp_path: Path
) -> None:
    """The whole way with worker processes, and lm-eval itself on the exported folder."""
    run = tmp_path / "run"
    assert evomerge("search", small_study(), run).code == 0
    verdict = json.loads((run / "verdict.json").read_text())
    words = shlex.split(verdict["reproduce"])
    assert words[0] == "lm_eval"
    out = tmp_path / "lm_eval"
    subprocess.run(
        [
            str(Path(PYTHON).with_name("lm_eval")),
            *words[1:],
            "--output_path",
            str(out),
            "--device",
            "cpu",
        ],
        check=True,
        cwd=tmp_path,
    )
    results = json.loads(next(out.rglob("results_*.json")).read_text())["results"]
    metrics = {name: task["metric"] for name, task in events(run, "study")[0]["tasks"].items()}
    for task, score in verdict["scores"]["winner"].items():
        printed = [v for k, v in results[task].items() if k.split(",")[0] == metrics[task]]
        assert printed == [pytest.approx(score)]
