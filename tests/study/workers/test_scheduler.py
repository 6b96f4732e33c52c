"""The scheduler brings back one answer for every unit, whatever workers do."""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from evomerge.core.errors import UserError
from evomerge.study.workers import scheduler as module
from evomerge.study.workers.pool import Pool, Reply
from evomerge.study.workers.queue import Waiting
from evomerge.study.workers.requests import Answer, Failure, Request, Scores, Translate
from evomerge.study.workers.scheduler import Scheduler, Unit
from tests.study.small_study import stub_config

Behaviour = Callable[[int, int], Answer | str | None]


def request(n: int) -> Request:
    """Return a request that is told from others by its number, and never joined to another."""
    return Translate({"n": n})


def number(asked: Request) -> int:
    assert isinstance(asked, Translate)
    return int(asked.recipe["n"])


def scores(*row: int) -> Scores:
    return Scores(rows=[row])


class FakePool(Pool):
    """Workers in a script: what the n-th request of a subject gets, and in which order.

    Args:
        size: How many workers.
        behave: (subject number, attempt) -> an answer, the reason of a loss, or None for silence.
        seed: Of the order in which replies come; None keeps that of the requests.
    """

    def __init__(self, size: int, behave: Behaviour, seed: int | None = None):
        super().__init__(stub_config(workers={"count": size}))
        self.behave = behave
        self.busy: dict[int, Request] = {}
        self.sent: list[tuple[int, int]] = []
        self.restarted: list[int] = []
        self.clock = 0.0
        self._attempts: Counter[int] = Counter()
        self._draw = None if seed is None else random.Random(seed)

    def submit(self, worker: int, request: Request) -> None:
        assert worker not in self.busy, "a worker serves one request at a time"
        self.busy[worker] = request
        self.sent.append((worker, number(request)))

    def poll(self, timeout: float) -> list[Reply]:
        self.clock += timeout
        workers = list(self.busy)
        if self._draw is not None:
            workers = self._draw.sample(workers, self._draw.randint(1, len(workers)))
        replies = []
        for worker in workers:
            n = number(self.busy[worker])
            outcome = self.behave(n, self._attempts[n] + 1)
            if outcome is None:
                continue
            self._attempts[n] += 1
            del self.busy[worker]
            if isinstance(outcome, str):
                replies.append(Reply(worker, None, outcome))
            else:
                replies.append(Reply(worker, outcome))
        return replies

    def restart(self, worker: int) -> None:
        self.restarted.append(worker)
        request = self.busy.pop(worker, None)
        if request is not None:
            self._attempts[number(request)] += 1

    def close(self) -> None:
        self.busy.clear()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[FakePool]:
    """Time that passes only in polls: half a second in each, and none in sleeps."""
    pools: list[FakePool] = []
    monkeypatch.setattr(module.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(module.time, "monotonic", lambda: sum(pool.clock for pool in pools))
    return pools


def run(pool: FakePool, units: list[Unit]) -> dict[int, Answer]:
    answers: dict[int, Answer] = {}

    def done(unit: Unit, answer: Answer, _worker: int) -> None:
        assert number(unit.request) not in answers, "a unit was done twice"
        answers[number(unit.request)] = answer

    Scheduler(pool).run(units, done)
    return answers


def units(count: int, subjects: int = 1_000_000) -> list[Unit]:
    return [Unit(f"recipe {n % subjects}", request(n)) for n in range(count)]


def answered(n: int, _attempt: int) -> Answer:
    return scores(n)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_every_unit_gets_its_own_answer_in_whatever_order_workers_finish(
    size: int, seed: int | None
) -> None:
    answers = run(FakePool(size, answered, seed), units(20))
    assert answers == {n: scores(n) for n in range(20)}


def test_workers_without_a_place_get_no_work_and_hold_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = FakePool(3, answered)
    places = {0: 10.0, 1: 12.0, 2: 1e9}  # seconds from which each is up
    monkeypatch.setattr(pool, "is_up", lambda worker: pool.clock >= places[worker])
    assert run(pool, units(20)) == {n: scores(n) for n in range(20)}
    assert {worker for worker, _ in pool.sent} == {0, 1}
    assert 10.0 <= pool.clock < 30.0


def test_no_units_need_no_workers() -> None:
    pool = FakePool(2, answered)
    assert run(pool, []) == {}
    assert not pool.sent


def test_a_lost_worker_is_replaced_and_its_unit_tried_again() -> None:
    pool = FakePool(
        2, lambda n, attempt: "signal SIGKILL" if (n, attempt) == (3, 1) else scores(attempt)
    )
    answers = run(pool, units(6))
    assert answers[3] == scores(2)
    assert [answers[n] for n in (0, 1, 2, 4, 5)] == [scores(1)] * 5
    assert len(pool.restarted) == 1


def test_a_unit_that_kills_three_workers_fails_as_infrastructure_and_the_rest_goes_on() -> None:
    pool = FakePool(2, lambda n, _: "the worker ended with signal SIGKILL" if n == 3 else scores(n))
    answers = run(pool, units(8))
    assert answers[3] == Failure("infrastructure", "the worker ended with signal SIGKILL")
    assert len(pool.restarted) == 3
    assert sum(isinstance(answer, Failure) for answer in answers.values()) == 1


@pytest.mark.parametrize("kind", ["oom", "infrastructure"])
def test_running_out_of_memory_is_tried_three_times_without_a_new_worker(kind: str) -> None:
    failed = Failure(kind, "m")
    twice = FakePool(1, lambda _n, attempt: failed if attempt < 3 else scores(attempt))
    halvings = 2 if kind == "oom" else 0
    assert run(twice, units(1)) == {0: replace(scores(3), halvings=halvings)}
    always = FakePool(1, lambda _n, _attempt: failed)
    assert run(always, units(1)) == {0: failed}
    assert len(always.sent) == 3
    assert not always.restarted


@pytest.mark.parametrize("kind", ["non-finite", "task", "user"])
def test_a_failure_that_would_repeat_is_not_tried_again(kind: str) -> None:
    failed = Failure(kind, "m")
    pool = FakePool(2, lambda _n, _attempt: failed)
    assert run(pool, units(1)) == {0: failed}
    assert len(pool.sent) == 1


def test_a_hung_worker_is_killed_and_its_unit_tried_again(clock: list[FakePool]) -> None:
    pool = FakePool(2, lambda n, attempt: None if n == 7 and attempt == 1 else scores(attempt))
    clock.append(pool)
    answers = run(pool, units(12))
    assert answers[7] == scores(2)
    assert len(pool.restarted) == 1
    assert pool.clock >= module.LEAST_SECONDS


def test_a_unit_that_always_hangs_fails_with_a_timeout(clock: list[FakePool]) -> None:
    pool = FakePool(2, lambda n, _attempt: None if n == 7 else scores(n))
    clock.append(pool)
    answers = run(pool, units(12))
    assert isinstance(answers[7], Failure)
    assert answers[7].kind == "timeout"
    assert len(answers) == 12
    assert len(pool.restarted) == 3


def test_a_new_worker_may_take_long_to_load_while_others_answer(clock: list[FakePool]) -> None:
    first: list[int] = []

    def behave(n: int, _attempt: int) -> Answer | None:
        if 1 in pool.busy and number(pool.busy[1]) == n and not first:
            first.append(n)
        alone = 0 not in pool.busy or number(pool.busy[0]) != n
        return None if n in first and alone and pool.clock < 1000 else scores(n)

    pool = FakePool(2, behave)
    clock.append(pool)
    scheduler, answers, count = Scheduler(pool), {}, itertools.count()
    while pool.clock < 1100:
        batch = [Unit(f"recipe {n}", request(n)) for n in itertools.islice(count, 20)]
        scheduler.run(batch, lambda unit, answer, _: answers.update({number(unit.request): answer}))
    assert answers == {n: scores(n) for n in range(len(answers))}
    assert not pool.restarted


def test_the_last_candidates_units_are_shared_out_and_no_worker_idles() -> None:
    pool = FakePool(4, answered)
    run(pool, [Unit("the last", request(n)) for n in range(8)])
    assert Counter(worker for worker, _ in pool.sent) == {0: 2, 1: 2, 2: 2, 3: 2}


def test_a_candidate_that_is_dearer_to_build_than_to_score_is_not_shared() -> None:
    waiting = Waiting(Unit("slow to build", request(n)) for n in range(3))
    assert waiting.take("another", {"slow to build"}, least=3.5) is None
    assert waiting.take("slow to build", {"slow to build"}, least=3.5) is not None
    assert waiting.take(None, set(), least=3.5) is not None


def test_a_worker_takes_its_own_then_a_free_then_the_longest_subject() -> None:
    names = ["a", "a", "b", "b", "b", "c"]
    waiting = Waiting(Unit(name, request(n)) for n, name in enumerate(names))

    def take(resident: str | None, *others: str) -> int:
        taken = waiting.take(resident, others)
        assert taken is not None
        return number(taken[0].request)

    assert take("b", "a", "b", "c") == 2
    assert take("x", "a", "b") == 5
    assert take("x", "a") == 3
    waiting.add(Unit("a", request(9)), attempt=2)
    assert take("x", "a", "b") == 9  # a has three units left, the one that failed in front
    assert [take("a"), take("a"), take("a")] == [0, 1, 4]
    assert not waiting
    assert waiting.take("a", ()) is None


def test_a_straggler_is_done_again_by_an_idle_worker_and_the_first_answer_counts(
    clock: list[FakePool],
) -> None:
    class Slow(FakePool):
        slow, polled = -1, -1

        def submit(self, worker: int, request: Request) -> None:
            super().submit(worker, request)
            if number(request) == 7 and self.slow < 0:
                self.slow = worker

        def poll(self, timeout: float) -> list[Reply]:
            self.clock += timeout
            late = self.slow in self.busy and self.clock < 50
            done = [w for w in self.busy if not (w == self.slow and late and self.is_first(w))]
            return [Reply(w, scores(number(self.busy.pop(w)), w)) for w in done]

        def is_first(self, worker: int) -> bool:
            return number(self.busy[worker]) == 7

    pool = Slow(2, answered)
    clock.append(pool)
    scheduler, answers, differ = Scheduler(pool), {}, []
    scheduler.disagreed = lambda unit, *both: differ.append((number(unit.request), *both))

    def done(unit: Unit, _answer: Answer, worker: int) -> None:
        answers[number(unit.request)] = worker

    scheduler.run(units(8), done)
    assert len(answers) == 8
    assert pool.clock < 50  # nobody waited for the slow one
    assert Counter(n for _, n in pool.sent)[7] == 2
    assert answers[7] != pool.slow
    assert not differ
    more = [Unit("more", request(n)) for n in range(100, 300)]
    scheduler.run(more, done)
    assert differ == [(7, scores(7, 1 - pool.slow), scores(7, pool.slow))]
    assert not pool.restarted
    assert {worker for worker, n in pool.sent if n >= 100} == {0, 1}  # the slow one works again


def test_slow_units_are_waited_for_when_all_are_slow(clock: list[FakePool]) -> None:
    polls: Counter[int] = Counter()

    def slow(n: int, _attempt: int) -> Answer | None:
        polls[n] += 1
        return scores(n) if polls[n] % 600 == 0 else None  # five minutes each

    pool = FakePool(1, slow)
    clock.append(pool)
    assert len(run(pool, units(8))) == 8
    assert not pool.restarted


def test_units_of_one_recipe_stay_with_the_worker_that_holds_it() -> None:
    pool = FakePool(2, answered, seed=4)
    run(pool, units(24, subjects=6))
    changes = {
        worker: sum(
            a != b for a, b in itertools.pairwise(n % 6 for w, n in pool.sent if w == worker)
        )
        for worker in (0, 1)
    }
    assert sum(changes.values()) <= 8, pool.sent  # 24 units of 6 recipes, not 22 changes


def test_an_interrupt_leaves_no_worker_at_work() -> None:
    waiting = deque([1, 2, 3])

    def interrupt(n: int, _attempt: int) -> Answer | None:
        if n == 4:
            raise KeyboardInterrupt
        return scores(n) if waiting and waiting.popleft() else None

    pool = FakePool(3, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(pool, units(9))
    assert not pool.busy
    assert pool.restarted


def test_an_error_while_an_answer_is_taken_in_leaves_no_worker_at_work() -> None:
    def refuse(_unit: Unit, _answer: Answer, _worker: int) -> None:
        raise UserError("disk full")

    pool = FakePool(3, lambda n, _: None if n == 2 else scores(n))
    with pytest.raises(UserError, match="disk full"):
        Scheduler(pool).run(units(9), refuse)
    assert not pool.busy


def test_workers_that_never_start_end_the_study_with_their_last_message() -> None:
    pool = FakePool(2, lambda _n, _attempt: "the worker ended with exit code 1")
    with pytest.raises(UserError, match=r"exit code 1.*workers\.log"):
        run(pool, units(50))
    assert len(pool.restarted) < 50


def test_losses_now_and_then_do_not_end_the_study() -> None:
    pool = FakePool(2, lambda n, attempt: "lost" if attempt == 1 and n % 2 else scores(n))
    assert len(run(pool, units(60))) == 60
    assert len(pool.restarted) == 30


def test_a_worker_lost_while_idle_is_replaced_before_it_is_needed() -> None:
    class Idle(FakePool):
        reported = False

        def poll(self, timeout: float) -> list[Reply]:
            replies = super().poll(timeout)
            if not self.reported:
                self.reported = True
                replies.append(Reply(1, None, "the worker ended with signal SIGSEGV"))
            return replies

    pool = Idle(2, answered)
    assert run(pool, units(1)) == {0: scores(0)}
    assert pool.restarted == [1]
