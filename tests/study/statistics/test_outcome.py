import math

import pytest

from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.study.statistics.outcome import fitness, item_scores, scores, sign, weights

TASKS = {
    "quiz": {"metric": "acc", "higher_is_better": True, "weight": 3.0},
    "text": {"metric": "perplexity", "higher_is_better": False, "weight": 1.0},
}
ROWS = [
    ["quiz", 0, 1.0, 0.9, 0, 1],
    ["quiz", 7, 0.0, 0.4, 0, 1],
    ["text", 0, 12.0, -1.0, 0, 1],
    ["text", 1, 20.0, -2.0, 0, 1],
]


def test_fitness_is_the_weighted_mean_of_task_means_and_lower_is_better_is_negated():
    # by hand: metric (3 * 0.5 - 16) / 4, smooth (3 * 0.65 - 1.5) / 4
    assert fitness(ROWS, TASKS, "metric") == pytest.approx((3 * 0.5 - 16) / 4)
    assert fitness(ROWS, TASKS) == pytest.approx((3 * 0.65 - 1.5) / 4)


def test_scores_keep_the_tasks_own_direction():
    assert scores(ROWS, TASKS) == {"quiz": 0.5, "text": 16.0}
    assert scores(ROWS, TASKS, "smooth") == {"quiz": pytest.approx(0.65), "text": -1.5}
    assert scores(ROWS[:1], TASKS) == {"quiz": 1.0}
    assert sign(TASKS["text"]) == -1
    assert sign(TASKS["text"], "smooth") == 1


def test_a_task_with_an_item_without_smooth_score_counts_by_its_metric():
    rows = [*ROWS[:3], ["text", 1, 20.0, None, 0, 1]]
    assert fitness(rows, TASKS) == pytest.approx((3 * 0.65 - 16) / 4)
    assert scores(rows, TASKS, "smooth")["text"] == 16.0


def test_more_items_of_one_task_do_not_give_it_more_weight():
    rows = ROWS + [["quiz", i, 0.5, 0.65, 0, 1] for i in range(100, 140)]
    assert fitness(rows, TASKS) == pytest.approx(fitness(ROWS, TASKS))


def test_rows_and_lists_are_the_same_thing_and_their_order_does_not_matter():
    rows = [OutcomeRow(*row) for row in reversed(ROWS)]
    assert fitness(rows, TASKS) == fitness(ROWS, TASKS)


def test_a_task_of_weight_zero_is_scored_but_does_not_count():
    tasks = {**TASKS, "text": {**TASKS["text"], "weight": 0.0}}
    assert fitness(ROWS, tasks, "metric") == 0.5
    assert scores(ROWS, tasks)["text"] == 16.0


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_missing_or_non_finite_value_names_task_and_item(value):
    rows = [*ROWS[:3], ["text", 9, value, None, 0, 1]]
    with pytest.raises(ValueError, match="task text, item 9: metric is missing or not finite"):
        fitness(rows, TASKS, "metric")


def test_a_task_without_outcomes_is_an_error():
    with pytest.raises(ValueError, match="task text has no outcomes"):
        fitness(ROWS[:2], TASKS)


@pytest.mark.parametrize("given", [(0.0, 0.0), (2.0, -1.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_weights_that_make_no_mean_are_refused(given):
    tasks = {
        task: {**spec, "weight": weight}
        for (task, spec), weight in zip(TASKS.items(), given, strict=True)
    }
    with pytest.raises(ValueError, match="task weights must be >= 0"):
        weights(tasks)


def test_item_scores_are_higher_is_better_and_average_to_the_fitness() -> None:
    tasks = {
        "qa": {"metric": "acc", "higher_is_better": True, "weight": 1.0},
        "lm": {"metric": "perplexity", "higher_is_better": False, "weight": 1.0},
    }
    rows = [["qa", 0, 1.0, 0.8, 0, 1], ["qa", 1, 0.0, 0.2, 0, 1], ["lm", 4, 9.0, None, 0, 1]]
    assert item_scores(rows, tasks) == {"qa": {0: 0.8, 1: 0.2}, "lm": {4: -9.0}}
    assert item_scores(rows, tasks, "metric") == {"qa": {0: 1.0, 1: 0.0}, "lm": {4: -9.0}}
    assert fitness(rows, tasks) == (0.5 - 9.0) / 2
