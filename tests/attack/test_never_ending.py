"""A template, pattern or answer that never comes ends in one line that says what to look at."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.core.errors import UserError
from evomerge.core.time_limit import time_limit
from evomerge.evaluate.tasks import lm_eval_api
from evomerge.evaluate.tasks.harness import Harness
from evomerge.study.workers.pool import Pool, Reply
from evomerge.study.workers.requests import Describe, Evaluate, Request
from evomerge.study.workers.scheduler import Scheduler, Unit
from tests.study.small_study import stub_config

ROOT = Path(__file__).parents[2]
LOOPS = (
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
TASK = """task: endless
output_type: generate_until
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
doc_to_text: 'TEXT'
doc_to_target: '{{a}}'
generation_kwargs: {until: ['.'], max_gen_toks: 3}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def write_task(folder: Path, text: str) -> None:
    rows = [json.dumps({"q": f"w{i % 20}", "a": "x"}) for i in range(60)]
    (folder / "d.jsonl").write_text("\n".join(rows))
    written = TASK.replace("DATA", str(folder / "d.jsonl")).replace("TEXT", text)
    (folder / "endless.yaml").write_text(written)


def test_a_template_that_loops_in_loops_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_eval_api, "TEMPLATE_SECONDS", 0.3)
    write_task(tmp_path, LOOPS + "{{q}}")
    began = time.monotonic()
    with pytest.raises(
        UserError, match=r"'endless' \(\S+endless.yaml\) cannot be used: TimeoutError: rendering"
    ):
        Harness.load(["endless"], [tmp_path])
    assert time.monotonic() - began < 30


def test_a_time_limit_leaves_no_timer_behind_and_nests() -> None:
    with time_limit(5, "this"), time_limit(0.01, "an inner limit, which the outer one replaces"):
        time.sleep(0.05)
    with (
        pytest.raises(TimeoutError, match=r"this took longer than 0\.05 s"),
        time_limit(0.05, "this"),
    ):
        time.sleep(5)
    time.sleep(0.1)  # a timer that was left would end the test


class SilentPool(Pool):
    """Workers that never answer, with a clock of their own."""

    def __init__(self, patience: str, clock: list[float]):
        super().__init__(stub_config(workers={"count": 2, "patience": patience}))
        self.clock = clock
        self.restarted: list[int] = []

    def submit(self, worker: int, request: Request) -> None:
        """Take the request."""

    def poll(self, timeout: float) -> list[Reply]:
        """Say nothing, for some minutes."""
        self.clock[0] += 100 * timeout
        return []

    def restart(self, worker: int) -> None:
        """End the worker."""
        self.restarted.append(worker)

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    times = [0.0]
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: times[0])
        yield times


@pytest.mark.parametrize(
    ("request_", "subject", "what"),
    [
        (Describe(), "", "with nothing loaded and checked"),
        (Evaluate({}, [], "smooth"), "recipe", "with nothing scored yet"),
    ],
)
def test_first_answers_that_never_come_end_the_study_after_its_patience(
    clock: list[float], request_: Request, subject: str, what: str
) -> None:
    pool = SilentPool("3h", clock)
    with pytest.raises(UserError, match=rf"no answer after 3h, {what}.*longer workers\.patience"):
        Scheduler(pool).run([Unit(subject, request_)], lambda *_: None)
    assert 3 * 3600 < clock[0] < 3.1 * 3600
    assert pool.restarted  # nobody waits for it any more


def test_a_patience_that_is_no_time_span_is_refused() -> None:
    with pytest.raises(UserError, match=r"workers\.patience: expected a time span such as 45m"):
        stub_config(workers={"patience": "long"})


@pytest.mark.slow
def test_a_template_that_no_signal_ends_stops_a_real_study(small_study_file: Path) -> None:
    write_task(small_study_file.parent / "tasks", "{{ 9**(9**9) }}")  # one call into C
    document = json.loads(small_study_file.read_text())
    document["evaluate"]["tasks"] = ["endless"]
    document["workers"]["patience"] = "20s"
    small_study_file.write_text(json.dumps(document))
    run = small_study_file.parent / "run"
    done = subprocess.run(
        [sys.executable, "-m", "evomerge", "search", str(small_study_file), str(run)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "workers: no answer after 20s, with nothing loaded and checked" in done.stderr
    assert done.stderr.count("\n") == 1
