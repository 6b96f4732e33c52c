"""Phase 2 searches, generation after generation, each on its own items."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from evomerge import optimizers as search
from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import OutcomeRow, score_kind_of
from evomerge.optimizers.relay import Relay
from evomerge.recipe.space.dimension import Point
from evomerge.recipe.space.space import SearchSpace
from evomerge.study.config import StudyConfig
from evomerge.study.context import StudyRun
from evomerge.study.journal.events import ReferenceFitness, SearchEndedEvent, ToldEvent
from evomerge.study.journal.trials import AskRecord
from evomerge.study.phases.baseline import Baseline
from evomerge.study.phases.control import ControlArm, whole_generations
from evomerge.study.phases.degenerate import degenerate
from evomerge.study.phases.feedback import Feedback, FitnessValue, GenerationFeedback
from evomerge.study.phases.gradients import Chain, chain_of, summed, wanted_gradient
from evomerge.study.phases.surrogate import SurrogateCheck
from evomerge.study.statistics.outcome import item_scores
from evomerge.study.statistics.pools import generation_items
from evomerge.study.together import goes_together
from evomerge.study.wanted import Items, Wanted
from evomerge.study.workers.durations import out_of_time
from evomerge.study.workers.requests import Failure


def start_optimizer(
    config: StudyConfig, space: SearchSpace, start: Point | None
) -> search.Optimizer:
    """Return the study's optimizer, ready to be asked.

    Args:
        config: The study's.
        space: What to search.
        start: Where to start; ``None`` is where the space says.

    Raises:
        UserError: There is no such optimizer, or it cannot search this space.
    """
    section = config.search
    assert section.optimizer is not None, "`choice.with_optimizer` comes first"
    optimizer = search.create(section.optimizer, **section.options)
    then = section.then
    if then is not None:
        second = search.create(then.optimizer, **then.options)
        optimizer = Relay([(optimizer, then.after), (second, section.trials)])
    seed = None if "seed" in section.options else section.seed
    counted = sum(task.weight > 0 for task in config.evaluate.tasks)
    objectives = counted if section.objective == "pareto" else 1
    optimizer.start(space.dimensions, seed, start, section.population, objectives)
    if then is not None:  # what the second could not do is said at once
        second.start(space.dimensions, seed, start, None, objectives)
        if second.learns_from_gradients:
            chain_of(config, space, second)
    if optimizer.learns_from_gradients:
        chain_of(config, space, optimizer)
    return optimizer


TellArguments = tuple[
    list[FitnessValue],
    list[search.ItemScores | None],
    Sequence[Sequence[float] | None] | None,
]


PACES = 3  # of the last generations, the longest is what the next may take
CHECKED_STEPS = 8  # of so many steps along gradients, one is scored by the metric, too


def _is_checked(optimizer: search.Optimizer, generation: int) -> bool:
    """Return whether the surrogate check takes in a generation's leader."""
    is_dear = optimizer.learns_from_gradients and score_kind_of(optimizer.loss) == "smooth"
    return not is_dear or generation % CHECKED_STEPS == 0


class Generations:
    """The search of one study.

    Args:
        study: The study.
        baseline: Its anchors.
        started: When this run began, on the monotonic clock: the deadline counts from there.
        is_stopped: Asked before a new generation; true ends the search.
    """

    def __init__(
        self,
        study: StudyRun,
        baseline: Baseline,
        started: float,
        is_stopped: Callable[[], bool] = lambda: False,
    ):
        self._study = study
        self._baseline = baseline
        self._started = started
        self._is_stopped = is_stopped
        self._reference = baseline.reference
        self._surrogate = SurrogateCheck(study, baseline)
        self._chain: tuple[Point, Chain] | None = None
        self._paces: deque[float] = deque(maxlen=PACES)
        self._together: bool | None = None  # until a generation has to be scored

    def run(self) -> search.Optimizer:
        """Search until the trials or the time are used up, or the optimizer stops."""
        study, section = self._study, self._study.config.search
        start = self._baseline.start()
        optimizer = start_optimizer(study.config, study.space, start)
        self._feedback = Feedback(study, self._baseline, self._reference, start)
        follows = optimizer.learns_from_gradients or section.then is not None
        share = 0.0 if follows or not optimizer.adapts else section.random_share
        control = ControlArm(study.space.dimensions, study.seed, share)
        self._announce(whole_generations(section.trials, optimizer.population, share), optimizer)
        asked, generation, reason = 0, 0, "trials"
        ended = study.record.search_ended
        while True:
            if optimizer.stopped:
                reason = optimizer.stopped
                break
            if generation and asked + optimizer.population > section.trials:
                break
            past = study.record.generations.get(generation)
            if past is None:
                early = self._ended_early(ended)
                if early:
                    reason = early
                    break
            generation_began = time.monotonic()
            points = optimizer.ask()
            # The control arm takes what room there is; in the past, what room there was.
            most = section.trials - asked if past is None else len(past.trials)
            extra = control.points(len(points), most - len(points))
            asked += len(points) + len(extra)
            fitness, scores, gradients = self._generation(optimizer, generation, points, extra)
            if optimizer.learns_from_gradients:
                optimizer.tell(points, fitness, scores, gradients)
            else:
                optimizer.tell(points, fitness, scores)
            self._check_any_survives(generation)
            if past is None:
                self._paces.append(time.monotonic() - generation_began)
            generation += 1
        self._surrogate.correlation()  # the last leader, too, is scored by the metric
        if ended is None or (ended.trials, ended.wanted) != (asked, section.trials):
            study.ledger.log(SearchEndedEvent(reason=reason, trials=asked, wanted=section.trials))
        return optimizer

    def _announce(self, trials: int, optimizer: search.Optimizer) -> None:
        """Say before the first generation that fewer trials fit than are wanted."""
        wanted = self._study.config.search.trials
        if trials < wanted and not self._study.record.generations:
            self._study.ledger.warn(
                "trials",
                f"search.trials: {wanted} allows whole generations of {optimizer.population} for "
                f"{trials} trials; the next would go beyond",
            )

    def _generation(
        self,
        optimizer: search.Optimizer,
        generation: int,
        points: Sequence[Point],
        extra: Sequence[Point],
    ) -> TellArguments:
        """Score one generation and write down its fitness; returns the optimizer's feedback."""
        study, reference = self._study, self._reference
        past = study.record.generations.get(generation)
        if past is not None and past.fitness is not None:
            return self._again(optimizer, past, points, extra)
        items = generation_items(
            study.pools["search"],
            study.config.evaluate.items_per_task,
            study.seed,
            0 if optimizer.same_items else generation,
            study.config.evaluate.answers_of,
        )
        recipes = [study.space.fill(point) for point in (*points, *extra)]
        if generation not in study.record.generations:
            study.ask_generation(generation, (*points, *extra), recipes, items, len(extra))
        ask = study.record.generations[generation]
        study.check_same(ask.trials, recipes, f"generation {generation}, trial")
        if optimizer.learns_from_gradients:
            return self._step(optimizer, generation, ask, points)
        field = study.config.evaluate.fitness
        if self._together is None:
            self._together = goes_together(study)
        wanted = Wanted([*ask.trials, reference], items, field, "search", together=self._together)
        # The last leader is scored by the metric on the way: no worker waits for it alone.
        study.ledger.score([wanted, *self._surrogate.wanted])
        correlation = self._surrogate.correlation()
        rows = study.outcomes(wanted.trials, items, field, "search")
        self._fail_the_degenerate(ask.trials, rows)
        values = [
            None if (outcomes := rows.get(number)) is None else study.fitness(outcomes, field)
            for number in ask.trials
        ]
        self._surrogate.lead(ask.trials, values, items)
        at_anchor = rows[reference]
        at_reference = None if at_anchor is None else study.fitness(at_anchor, field)
        feedback = self._feedback.of_generation([rows.get(n) for n in ask.trials], at_anchor)
        self._surrogate.warn_if_low(correlation, generation)
        study.ledger.log(
            ToldEvent(
                generation=generation,
                trials=list(ask.trials),
                fitness=values,
                correlation=correlation,
                reference=ReferenceFitness(reference, at_reference),
                objectives=feedback.objectives,
                violations=feedback.violations,
            )
        )
        fitness = self._feedback.values(optimizer, points, values, at_reference, feedback)
        return fitness, self._item_scores(optimizer, ask.trials[: len(points)], items), None

    def _step(
        self,
        optimizer: search.Optimizer,
        generation: int,
        ask: AskRecord,
        points: Sequence[Point],
    ) -> TellArguments:
        """Score a generation together with the gradient of the loss at each of its points.

        No reference is scored beside it: an optimizer that follows gradients compares no fitness.
        """
        study, items = self._study, ask.items or {}
        chain = self._chain_at(optimizer)
        wanted = wanted_gradient(study, optimizer, chain, ask.trials, items)
        study.ledger.score([wanted, *self._surrogate.wanted])
        correlation = self._surrogate.correlation()
        gradients = [summed(study, number, items) for number in ask.trials]
        rows = [
            None
            if gradient is None
            else study.outcomes([number], items, wanted.mode, "search")[number]
            for number, gradient in zip(ask.trials, gradients, strict=True)
        ]
        values = [None if one is None else study.fitness(one, wanted.mode) for one in rows]
        if _is_checked(optimizer, generation):
            self._surrogate.lead(ask.trials, values, items, wanted.mode)
        self._surrogate.warn_if_low(correlation, generation)
        feedback = self._feedback.of_generation(rows, None)
        study.ledger.log(
            ToldEvent(
                generation=generation,
                trials=list(ask.trials),
                fitness=values,
                correlation=correlation,
                objectives=feedback.objectives,
                violations=feedback.violations,
                gradients=gradients,
                loss_correlation=self._surrogate.loss_correlation,
            )
        )
        fitness = self._feedback.values(optimizer, points, values, None, feedback)
        return fitness, [None] * len(points), gradients

    def _chain_at(self, optimizer: search.Optimizer) -> Chain:
        """Return the chain where the optimizer started, worked out once."""
        if self._chain is None or self._chain[0] != optimizer.origin:
            study = self._study
            self._chain = optimizer.origin, chain_of(study.config, study.space, optimizer)
        return self._chain[1]

    def _fail_the_degenerate(
        self, trials: Sequence[int], rows: dict[int, list[OutcomeRow] | None]
    ) -> None:
        """Fail trials that write nothing: log the reason and drop their outcomes."""
        record = self._study.record
        for number in trials:
            outcomes = rows.get(number)
            why = outcomes and degenerate(outcomes, rows[self._reference], record.generating)
            if why and record.trials[number].digest != record.trials[self._reference].digest:
                self._study.ledger.fail(number, "search", Failure("degenerate", why))
                rows[number] = None

    def _again(
        self,
        optimizer: search.Optimizer,
        past: AskRecord,
        points: Sequence[Point],
        extra: Sequence[Point],
    ) -> TellArguments:
        """Return a past generation's feedback as the journal has it.

        It stays the same even if a failed trial could be scored by now.
        """
        study, items = self._study, past.items or {}
        if [study.record.trials[n].point for n in past.trials] != [*points, *extra]:
            recipes = [study.space.fill(point) for point in (*points, *extra)]
            study.check_same(past.trials, recipes, f"generation {past.generation}, trial")
        values = list(past.fitness or ())
        if _is_checked(optimizer, past.generation or 0):
            self._surrogate.lead(past.trials, values, items, score_kind_of(optimizer.loss))
        objectives, violations = past.objectives, past.violations
        feedback = GenerationFeedback(
            None if objectives is None else [None if v is None else list(v) for v in objectives],
            None if violations is None else list(violations),
        )
        fitness = self._feedback.values(optimizer, points, values, past.reference, feedback)
        scores = self._item_scores(optimizer, past.trials[: len(points)], items)
        return fitness, scores, past.gradients

    def _item_scores(
        self, optimizer: search.Optimizer, trials: Sequence[int], items: Items
    ) -> list[search.ItemScores | None]:
        """Return each trial's score of every item, for an optimizer that learns from these."""
        if not optimizer.learns_from_items:
            return [None] * len(trials)
        study, field = self._study, self._study.config.evaluate.fitness
        live = [number for number in trials if study.record.trials[number].fitness is not None]
        rows = study.outcomes(live, items, field, "search")
        tasks = study.record.tasks_of("search")
        scored = {n: item_scores(of_one, tasks, field) for n, of_one in rows.items() if of_one}
        return [scored.get(number) for number in trials]

    def _ended_early(self, ended: SearchEndedEvent | None) -> str | None:
        """Say why no new generation begins; an earlier end counts until more trials are wanted."""
        if self._is_stopped():
            return "stopped"
        study, pace = self._study, max(self._paces, default=0.0)
        workers = study.ledger.n_workers
        reason = out_of_time(study.config, study.record, self._started, pace, workers)
        if reason is None and ended is not None and ended.wanted >= study.config.search.trials:
            return ended.reason
        return reason

    def _check_any_survives(self, generation: int) -> None:
        """Stop if every trial of three generations in a row failed, unless all were degenerate."""
        record = self._study.record
        last = [record.generations[g] for g in range(max(0, generation - 2), generation + 1)]
        kinds = {f.kind for g in last for n in g.trials if (f := record.trials[n].failure)}
        if (
            len(last) == 3
            and all(not any(v is not None for v in g.fitness or ()) for g in last)
            and kinds != {"degenerate"}
        ):
            failure = record.trials[last[-1].trials[0]].failure
            raise UserError(
                "every trial of three generations failed; the last one reported: "
                f"{failure.message if failure else 'nothing'}"
            )
