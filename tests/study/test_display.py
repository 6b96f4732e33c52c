"""What a notebook and a prompt show of studies, trials, verdicts, spaces and recipes."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

import evomerge as em
from evomerge.study import progress
from evomerge.study.display import study_html, study_line
from evomerge.study.journal.codec import from_json, to_json
from evomerge.study.journal.record import Record
from evomerge.study.progress import ProgressBar, someone_looks
from evomerge.study.statistics.verdict import Verdict
from evomerge.study.trial import Trial
from tests.report import report_bench as bench


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record.read(bench.write(tmp_path / "run"))


def test_a_study_is_a_line_at_a_prompt_and_a_table_in_a_notebook(record: Record) -> None:
    assert study_line(Path("run"), record) == "Study('run', done, 4 trials, improvement shown)"
    shown = study_html(Path("<run>"), record)
    assert "<td>&lt;run&gt;</td>" in shown
    assert "<td>trial 6, 0.875, +0.275 over the reference anchor</td>" in shown
    assert study_line(Path("new"), Record()) == "Study('new', not begun)"
    assert "not begun" in study_html(Path("new"), Record())


def test_a_verdict_is_its_sentence_at_a_prompt(record: Record) -> None:
    assert record.verdict is not None
    verdict = from_json(Verdict, to_json(record.verdict))
    assert repr(verdict) == f"Verdict({verdict.sentence!r})"


def test_a_trial_shows_its_scores_and_parameters(record: Record) -> None:
    shown = Trial(record, 6)._repr_html_()
    assert "<td>6, trial 6</td>" in shown
    assert "<td>models[left].weight[0]</td><td>0.250</td>" in shown
    assert "oom: out of memory" in Trial(record, 5)._repr_html_()


def test_a_verdict_shows_its_sentence_and_every_comparison(record: Record) -> None:
    assert record.verdict is not None
    shown = record.verdict._repr_html_()
    assert "Improvement shown: trial 6 scores" in shown
    assert "<td>+0.312 [+0.032, +0.765]</td><td>2 won, 0 lost, 4 tied</td>" in shown
    assert "<td>winner</td><td>0.750</td><td>2.000</td>" in shown


def test_a_space_lists_its_dimensions_and_a_recipe_its_yaml() -> None:
    space = em.SearchSpace.from_yaml("task_arithmetic_by_depth")
    assert repr(space).endswith("task_arithmetic_by_depth.yaml', no models yet)")
    bound = space.bind(base="base", models=["a", "b"])
    assert repr(bound).endswith("16 dimensions)")
    assert "<td>models[a].weight[0]</td>" in bound._repr_html_()
    recipe = bound.fill([d.start for d in bound.dimensions])
    assert recipe._repr_html_().startswith("<pre>")
    assert "merge_method: task_arithmetic" in recipe._repr_html_()


def test_a_mistake_is_one_line_in_a_notebook() -> None:
    assert em.UserError("expected a, got b")._render_traceback_() == [
        "UserError: expected a, got b"
    ]


@pytest.mark.usefixtures("record")
def test_a_bar_counts_trials_and_says_the_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    replayed = Record()
    bar = ProgressBar(4, replayed)
    from evomerge.study.journal.codec import parse_all
    from evomerge.study.journal.journal import iterate

    for event in parse_all(iterate(tmp_path / "run" / "journal.log")):
        replayed.apply(event)
        bar(event, replayed)
    bar.close()
    text = out.getvalue()
    assert "baselines: " in text
    assert "race: " in text
    assert "done: 100%" in text
    assert "4/4" in text
    assert "improvement shown" in text


def test_a_bar_is_shown_only_where_someone_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.sys, "stderr", io.StringIO())
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not someone_looks()


def test_optuna_gets_the_searchs_trials_with_their_gains(record: Record) -> None:
    from evomerge.study.analysis.optuna_mirror import optuna_study

    study = optuna_study(record, "run")
    gains = [trial.value for trial in study.trials]
    assert gains[1] is None  # trial 5 failed
    assert gains[:1] + gains[2:] == pytest.approx([0.025, 0.275, 0.05])
    assert study.best_trial.user_attrs["trial"] == 6
    assert study.user_attrs["verdict"].startswith("Improvement shown")
