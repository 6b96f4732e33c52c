"""Commands that show something: methods, spaces, status, report."""

from __future__ import annotations

import html
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.methods import registered
from evomerge.report.numbers import interval
from evomerge.study.create import load_study
from evomerge.study.journal.record import Record
from evomerge.study.study import JOURNAL
from tests.cli.conftest import Run

StudyFile = Callable[..., Path]


def test_the_environment_names_versions_and_devices_and_no_folder(evomerge: Run) -> None:
    result = evomerge("env")
    assert result.code == 0
    for word in ("evomerge", "torch", "lm_eval", "cores", "GPU"):
        assert f"\n{word}" in f"\n{result.out}"
    assert str(Path.home()) not in result.out


def test_methods_are_listed_with_what_each_does_its_ranges_and_its_paper(evomerge: Run) -> None:
    result = evomerge("methods")
    assert result.code == 0
    for method in registered():
        assert method.summary in result.out
        assert f"· {method.reference}\n" in result.out
    searched = "weight [0, 1], density [0, 1], gamma [0, 0.1], normalize, rescale, lambda [0, 2]"
    assert f"  {searched} · Davari" in result.out
    assert "  no parameters · " in result.out
    for name in ("linear", "slerp", "task_arithmetic", "ties", "dare_ties", "model_stock"):
        assert f"\n{name} " in f"\n{result.out}"


def test_one_method_is_shown_with_parameters_ranges_and_paper(evomerge: Run) -> None:
    result = evomerge("methods", "ties")
    assert "Yadav 2023" in result.out
    assert "density" in result.out
    assert "searched in [" in result.out


def test_methods_as_json_have_parameters_ranges_defaults_and_references(evomerge: Run) -> None:
    listed = {entry["name"]: entry for entry in json.loads(evomerge("methods", "--json").out)}
    density = next(p for p in listed["ties"]["parameters"] if p["name"] == "density")
    low, high = density["search_range"]
    assert 0 <= low < high <= 1
    assert density["per_model"] is True
    assert density["default"] == 1.0
    for entry in listed.values():
        assert entry["summary"]
        assert entry["reference"]
        for parameter in entry["parameters"]:
            assert parameter.keys() >= {"name", "kind", "search_range", "default", "required"}
    assert json.loads(evomerge("methods", "ties", "--json").out) == [listed["ties"]]


def test_spaces_are_listed_and_printed_as_files(evomerge: Run) -> None:
    names = [line.split()[0] for line in evomerge("spaces").out.splitlines()]
    assert {"global_linear", "ties_by_depth", "mixed_methods"} <= set(names)
    shown = evomerge("spaces", "ties_by_depth").out
    assert "merge_method: ties" in shown
    assert shown.startswith("#")


def test_status_of_a_finished_run(evomerge: Run, stub_study: StudyFile, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert evomerge("search", stub_study(), run).code == 0
    status = json.loads(evomerge("status", run, "--json").out)
    assert status.keys() >= {"phase", "trials", "item_evaluations", "best", "seconds", "verdict"}
    assert status["phase"] == "done"
    assert status["trials"].keys() == {"asked", "scored", "failed", "told"}
    assert status["trials"]["told"] == 16
    assert status["trials"]["failed"] == 0
    assert status["best"].keys() == {"trial", "fitness", "gain", "scores"}
    assert status["seconds"].keys() == {"build", "forward", "total"}
    verdict = json.loads((run / "verdict.json").read_text())
    assert verdict.pop("model")["parameters"] == 10  # the export's
    assert {key: status["verdict"][key] for key in verdict} == verdict
    text = evomerge("status", run)
    assert text.code == 0
    assert verdict["winner"]["name"] in text.out


def test_status_and_report_of_a_run_that_has_hardly_begun(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    evomerge("search", stub_study(), run)
    journal = run / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    for count in (1, 2, 3, 4, 20, 60, len(lines) - 1):
        journal.write_bytes(b"".join(lines[:count]) + lines[count][:9])
        status = evomerge("status", run, "--json")
        assert status.code == 0
        assert json.loads(status.out)["verdict"] is None or count > 60
        assert evomerge("status", run).code == 0
        assert journal.read_bytes().endswith(lines[count][:9]), "reading changes nothing"


def test_report_writes_one_file_that_needs_no_other(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    evomerge("search", stub_study(), run)
    assert (run / "report.html").is_file()
    out = tmp_path / "elsewhere.html"
    assert evomerge("report", run, "--out", out).out.strip() == str(out)
    page = out.read_text()
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    assert 'src="http' not in page


@pytest.mark.parametrize("command", ["status", "report", "watch"])
def test_a_folder_without_a_run_is_refused(evomerge: Run, tmp_path: Path, command: str) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (tmp_path, tmp_path / "nowhere", file):
        result = evomerge(command, path)
        assert result.code == 2
        assert result.err == (
            f"evomerge: error: {path}: expected a run folder, but it has no journal.log\n"
        )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "journal.log").touch()
    assert evomerge(command, tmp_path).err.endswith(f"journal.log; {tmp_path / 'run'} is one\n")


@pytest.mark.usefixtures("stub_workers")
def test_a_comparison_has_one_interval_on_the_whole_page(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert evomerge("search", stub_study(), run).code == 0
    page = re.sub(
        r"<style.*?</style>|<script.*?</script>", "", (run / "report.html").read_text(), flags=re.S
    )
    text = html.unescape(" ".join(re.sub(r"<[^>]+>", " ", page).split()))
    verdict = Record.read(run).verdict
    assert verdict is not None
    for comparison in verdict.comparisons:
        ends = interval(comparison.low, comparison.high)
        shown = re.findall(rf"{re.escape(comparison.against)}: \S+ (\[[^]]+\]); \d+ won", text)
        assert shown
        assert set(shown) == {ends}


@pytest.mark.usefixtures("stub_workers")
def test_a_tracker_that_joins_a_finished_run_says_how_it_is_logged_whole(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    run, study = tmp_path / "run", stub_study()
    assert evomerge("search", study, run, "--log-to", "tensorboard").out.count("note:") == 0
    again = evomerge("search", study, run, "--log-to", f"tensorboard:{tmp_path / 'events'}")
    assert f"note: tensorboard: nothing new was logged: `evomerge log {run} --to" in again.out


@pytest.mark.usefixtures("stub_workers")
def test_explain_around_writes_what_it_prints(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert evomerge("search", stub_study(), run).code == 0
    before = (run / "journal.log").read_bytes()
    result = evomerge("explain", run, "--around", 3)
    assert result.code == 0, result.err
    written = json.loads((run / "explain.json").read_text())
    assert f"around {written['landscape']['winner']}" in result.out
    assert len(written["landscape"]["line"]) == 3
    assert json.loads(evomerge("explain", run, "--around", 3, "--json").out) == written
    assert (run / "journal.log").read_bytes() == before
    refused = evomerge("explain", run, "--around", 2)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("evomerge: error: --around: expected at least 3 points")


def test_the_best_of_status_is_the_trial_that_is_furthest_ahead_on_its_own_items(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    evomerge("search", stub_study(), run)
    status = json.loads(evomerge("status", run, "--json").out)
    study = load_study(run)
    gains = {t.number: t.gain for t in study.trials if t.generation is not None and t.gain}
    best = max(gains, key=lambda number: gains[number])
    assert status["best"]["trial"] == best == study.best_trial.number
    assert status["best"]["gain"] == pytest.approx(gains[best])
    assert status["running"] is False
    assert f"trial {best}" in evomerge("status", run).out


def test_a_run_whose_process_was_killed_is_said_not_to_run(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    evomerge("search", stub_study(), run)
    journal = run / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:40]))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    note = {"pid": gone.pid, "host": socket.gethostname(), "start": 0.0}
    journal.with_suffix(".lock").write_text(json.dumps(note))  # as `kill -9` leaves it
    assert re.search(
        r"phase .*; not running since \d{4}-\d\d-\d\d .* UTC: the same search command resumes it\n",
        evomerge("status", run).out,
    )
    status = json.loads(evomerge("status", run, "--json").out)
    assert status["running"] is False
    assert status["last_event"] == json.loads(lines[39].split(b" ", 2)[2])["time"]
    journal.with_suffix(".lock").write_text(json.dumps({**note, "pid": os.getpid()}))
    assert "not running" not in evomerge("status", run).out
    assert json.loads(evomerge("status", run, "--json").out)["running"] is True


def test_a_study_that_saves_no_model_exports_its_recipe_only(
    evomerge: Run, stub_study: StudyFile, tmp_path: Path
) -> None:
    said = evomerge("search", stub_study(output={"save_model": False}), tmp_path / "run").out
    assert "export: recipe only" in said
    assert "None" not in said
