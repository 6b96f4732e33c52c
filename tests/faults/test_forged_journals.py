"""Journals whose frames are whole and whose events are not what evomerge writes."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage

import evomerge
from evomerge.cli import main
from evomerge.core.errors import UserError
from evomerge.study import study as study_module
from evomerge.study.analysis.optuna_mirror import Mirror, catch_up
from evomerge.study.config import StudyConfig
from evomerge.study.journal.journal import JOURNAL, follow, iterate
from evomerge.study.journal.record import Record
from evomerge.study.study import Study
from evomerge.study.workers.answers.codec import read_answer, write_request
from evomerge.study.workers.pool import Pool, Reply
from evomerge.study.workers.requests import Answer, Failure, Request
from tests.report import report_bench as bench
from tests.study.small_study import stub_config
from tests.study.stub_worker import DEFAULTS, Stub

Event = dict[str, Any]
MISSING = object()
OTHERS = (MISSING, None, True, -1, 10**30, 1e30, 0.5, float("inf"), "x", [], ["x"], {}, {"x": None})
CONFIG = stub_config(search={"trials": 8, "random_share": 0.2})
SAMPLE = 41  # every so many in the default suite
SEARCHES = 397  # ... of those with which a study is run to its end


class StubPool(Pool):
    """A stub worker in this process; what a forged recipe makes it raise is a failure."""

    def __init__(self, config: StudyConfig, _log: Path):
        super().__init__(config)
        self._replies: list[Reply] = []
        self._stub = Stub(config.to_dict(), DEFAULTS)

    def submit(self, worker: int, request: Request) -> None:
        answer: Answer
        try:
            answer = read_answer(self._stub.handle(write_request(request)))
        except Exception as error:
            answer = Failure("study", str(error))
        self._replies.append(Reply(worker, answer))

    def poll(self, timeout: float) -> list[Reply]:
        del timeout
        replies, self._replies = self._replies, []
        return replies

    def restart(self, worker: int) -> None:
        self._replies = [reply for reply in self._replies if reply.worker != worker]

    def close(self) -> None:
        pass


def by_hand() -> list[Event]:
    """The journal written by hand, and the kinds of events that it lacks."""
    events = bench.events()
    feedback = next(event for event in events if event["event"] == "told")
    feedback |= {"violations": [0.0, None]}
    judged = events[-2]
    table = [{"constraint": "quiz >= base", "score": 0.5, "limit": 0.25, "kept": True}]
    judged |= {"constraints": table}
    more = [
        {"event": "warning", "kind": "correlation", "message": "low", "generation": 0},
        {"event": "chosen", "trial": 6, "instead_of": 3, "reason": "simplest"},
        {"event": "changed", "differences": ["versions"], "now": {"device": "cpu"}},
    ]
    return [*events[:-2], *more, judged, events[-1]]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the parts of an event are; of a list only the first and the last."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            if (*path, key) != ("event",):
                yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in {0, len(value) - 1} if value else ():
            yield from places(value[i], (*path, i))


def forged(events: list[Event]) -> Iterator[tuple[str, list[Event]]]:
    """Every part of every kind of event, gone or something else; with the last event of a kind."""
    last = {event["event"]: i for i, event in enumerate(events)}
    for kind, i in last.items():
        for path in places(events[i]):
            for other in OTHERS:
                event = copy.deepcopy(events[i])
                holder = event
                for key in path[:-1]:
                    holder = holder[key]
                if other is MISSING:
                    del holder[path[-1]]
                else:
                    holder[path[-1]] = other
                name = "gone" if other is MISSING else repr(other)
                where = "".join(f"[{key!r}]" for key in path)
                yield f"{kind}{where}: {name}", [*events[:i], event, *events[i + 1 :]]


def met(command: Callable[[Path], Any], run: Path) -> str:
    """How a command meets a run: ``done``, ``refused``, or what is wrong."""
    try:
        code = command(run)
    except UserError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return {0: "done", None: "done", 2: "refused"}.get(code, f"code {code}")


def shown(*words: str) -> Callable[[Path], Any]:
    """A command line; a run's folder stands for RUN."""
    return lambda run: main([str(run) if word == "RUN" else word for word in words])


def mirrored(run: Path) -> None:
    catch_up(Mirror("run", InMemoryStorage()), Record(), follow(run / JOURNAL))


def resumed(run: Path) -> None:
    """As ``evomerge search`` does it, with the study that began the run."""
    Study(CONFIG, run).confirm()


def read(run: Path) -> None:
    study = evomerge.load_study(run)
    study.trials_dataframe()
    study.outcomes_dataframe()
    for trial in [*study.trials, *study.best_trials]:
        repr([trial.params, trial.gain, trial.scores, trial.truncated])


def asked(run: Path) -> None:
    with Study(CONFIG, run) as study:
        trial = study.ask()
        study.tell(trial, dict.fromkeys(study.record.tasks, 0.5))


READERS = {
    "status": shown("status", "RUN"),
    "status --json": shown("status", "RUN", "--json"),
    "report": shown("report", "RUN"),
    "explain": shown("explain", "RUN"),
    "watch": shown("watch", "RUN"),
    "export": shown("export", "RUN"),
    "build": shown("build", "RUN", "out-of-no-model"),
    "repair": shown("repair", "RUN"),
    "dashboard": mirrored,
    "load_study": read,
}


def problems(
    events: list[Event], commands: Mapping[str, Callable[[Path], Any]], folder: Path, every: int
) -> list[str]:
    """Forgeries that a command meets neither by an answer nor by one line; none should be."""
    failures = []
    ways = itertools.islice(forged(events), None, None, every)
    turns = itertools.cycle(commands) if every > 1 else None
    for number, (name, values) in enumerate(ways):
        chosen = [next(turns)] if turns else list(commands)
        for command in chosen:
            run = bench.write(folder / f"{number}", values)
            how = met(commands[command], run)
            if how not in ("done", "refused"):
                failures.append(f"{command}: {name}: {how}")
    return failures


class Hurried:
    """In the place of `time`: whoever waits is interrupted."""

    monotonic = staticmethod(time.monotonic)

    @staticmethod
    def sleep(_seconds: float) -> None:
        raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def stubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stubs for workers and for waiting, and a folder of its own."""
    monkeypatch.setattr(study_module, "open_pool", StubPool)
    monkeypatch.setattr("evomerge.cli.commands.runs.watch.time", Hurried)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def interrupted(tmp_path: Path) -> list[Event]:
    """A study that was left after its first generation."""
    Study(CONFIG, tmp_path / "whole").confirm()
    events = list(iterate(tmp_path / "whole" / JOURNAL))[1:]
    return events[: 1 + next(i for i, event in enumerate(events) if event["event"] == "told")]


@pytest.fixture
def elsewhere(tmp_path: Path) -> list[Event]:
    """A study that is told its scores, two of them failures."""
    with Study(CONFIG, tmp_path / "elsewhere") as study:
        for _ in range(14):
            trial = study.ask()
            scores = {"stub_choice": 0.5 + 0.01 * trial.number, "stub_write": 0.1}
            study.tell(trial, scores if trial.number % 7 else None)
    return list(iterate(tmp_path / "elsewhere" / JOURNAL))[1:]


sampled = pytest.mark.parametrize("every", [SAMPLE, pytest.param(1, marks=pytest.mark.slow)])


@sampled
def test_no_command_that_reads_a_run_fails_at_a_forged_event(tmp_path: Path, every: int) -> None:
    assert problems(by_hand(), READERS, tmp_path / "runs", every) == []


@pytest.mark.parametrize("every", [SEARCHES, pytest.param(3, marks=pytest.mark.slow)])
def test_no_search_resumes_into_a_traceback(
    interrupted: list[Event], tmp_path: Path, every: int
) -> None:
    commands = {"search": resumed, "load_study": read}
    assert problems(interrupted, commands, tmp_path / "runs", every) == []


@sampled
def test_nor_does_a_study_that_is_scored_elsewhere(
    elsewhere: list[Event], tmp_path: Path, every: int
) -> None:
    commands = {"ask": asked, "load_study": read}
    commands |= {name: READERS[name] for name in ("status", "report", "watch")}
    assert problems(elsewhere, commands, tmp_path / "runs", every) == []


@pytest.mark.parametrize(
    ("kind", "key", "other", "words"),
    [
        ("told", "fitness", MISSING, "`told`.fitness: expected a list, but it is missing"),
        ("outcomes", "rows", [["quiz", 0]], "`outcomes`.rows: expected [task of that phase"),
        ("verdict", "sentence", 7, "`verdict`.sentence: expected a text, but got 7"),
        ("exported", "trial", 99, "`exported`.trial: expected the number of a trial that was"),
    ],
)
def test_a_forged_event_is_told_in_one_line_with_its_place_and_a_remedy(
    kind: str,
    key: str,
    other: Any,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = bench.events()
    index = next(i for i, event in enumerate(whole) if event["event"] == kind)
    event = {k: v for k, v in whole[index].items() if k != key}
    if other is not MISSING:
        event[key] = other
    run = bench.write(tmp_path / "run", [*whole[:index], event, *whole[index + 1 :]])
    lines = (run / JOURNAL).read_bytes().splitlines(keepends=True)
    offset = sum(map(len, lines[: index + 1]))  # the first line is the header
    assert main(["status", str(run)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"{run / JOURNAL} has an event at byte {offset} that evomerge did not write" in message
    assert words in message
    assert main(["repair", str(run), "--to", str(offset)]) == 0
    assert main(["status", str(run)]) == 0
