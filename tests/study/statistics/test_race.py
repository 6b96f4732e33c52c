import math

import numpy as np
import pytest

from evomerge.study.statistics.race import Race

QUIZ = {"quiz": {"metric": "acc", "higher_is_better": True, "weight": 1.0}}
TWO = {
    "quiz": {"metric": "acc", "higher_is_better": True, "weight": 1.0},
    "text": {"metric": "perplexity", "higher_is_better": False, "weight": 1.0},
}


def run(race, value):
    """Drive a race to its end; value(candidate, task, doc id) is the metric."""
    rungs, evaluations = [], 0
    while (items := race.next_items()) is not None:
        wanted = [(task, i) for task, ids in items.items() for i in ids]
        evaluations += len(wanted) * len(race.alive)
        rungs.append(race.observe({c: {key: value(c, *key) for key in wanted} for c in race.alive}))
    return rungs, evaluations


def test_rungs_are_nested_doubling_prefixes_of_every_task_and_use_the_whole_pool():
    race = Race([0, 1], {"quiz": list(range(100, 180)), "text": list(range(10))}, TWO)
    rungs = []
    while (items := race.next_items()) is not None:
        rungs.append(items)
        race.observe({c: {(task, i): 1.0 for task in items for i in items[task]} for c in (0, 1)})
    assert [[len(items[task]) for task in ("quiz", "text")] for items in rungs] == [
        [20, 3],
        [20, 2],
        [40, 5],
    ]
    assert [i for items in rungs for i in items["quiz"]] == list(range(100, 180))
    assert [i for items in rungs for i in items["text"]] == list(range(10))


def test_a_clearly_worse_candidate_is_out_at_the_first_look_and_is_not_scored_again():
    race = Race([0, 1, 2], {"quiz": list(range(160))}, QUIZ)
    good = {0: 0.9, 1: 0.9, 2: 0.1}
    rungs, evaluations = run(race, lambda c, _, i: float((i * 7919 + c) % 100 < 100 * good[c]))
    assert rungs[0].out == (2,)
    assert rungs[0].alive == (0, 1)
    assert set(rungs[1].scores) == {0, 1}
    assert evaluations == 3 * 40 + 2 * 40 + 2 * 80
    assert race.winner in {0, 1}
    assert rungs[-1].winner == race.winner


def test_the_race_ends_early_when_one_is_left():
    race = Race([0, 1], {"quiz": list(range(400))}, QUIZ)
    rungs, evaluations = run(race, lambda c, *_: float(c))
    assert (len(rungs), evaluations) == (1, 200)
    assert (race.winner, race.alive) == (1, (1,))
    assert race.next_items() is None
    with pytest.raises(ValueError, match="over"):
        race.observe({})


def test_ties_go_to_the_candidate_listed_first():
    for order in ([7, 3, 5], [5, 7, 3], [3, 5, 7]):
        race = Race(order, {"quiz": list(range(20))}, QUIZ)
        rungs, _ = run(race, lambda *key: float(key[2] % 2))
        assert race.winner == order[0]
        assert all(rung.out == () for rung in rungs)


def test_lower_is_better_and_weights_decide_who_wins():
    values = {0: {"quiz": 0.6, "text": 10.0}, 1: {"quiz": 0.5, "text": 9.0}}
    items = {"quiz": list(range(8)), "text": list(range(8))}
    race = Race([0, 1], items, TWO)
    rungs, _ = run(race, lambda c, task, _: values[c][task])
    assert race.winner == 1
    assert rungs[0].scores == {0: pytest.approx(-4.7), 1: pytest.approx(-4.25)}
    heavy = {**TWO, "quiz": {**TWO["quiz"], "weight": 100.0}}
    race = Race([0, 1], items, heavy)
    run(race, lambda c, task, _: values[c][task])
    assert race.winner == 0


def test_a_candidate_that_cannot_be_scored_is_withdrawn():
    race = Race([0, 1, 2], {"quiz": list(range(8))}, QUIZ)
    race.withdraw(1)
    assert race.alive == (0, 2)
    race.withdraw(0)
    assert race.winner == 2
    with pytest.raises(ValueError, match="no candidate is left"):
        race.withdraw(2)


def test_one_candidate_wins_without_a_race():
    race = Race([3], {"quiz": [1, 2]}, QUIZ)
    assert race.next_items() is None
    assert race.winner == 3


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_missing_or_non_finite_value_is_an_error(value):
    race = Race([0, 1], {"quiz": [5]}, QUIZ)
    given = {0: {("quiz", 5): 1.0}, 1: {} if value is None else {("quiz", 5): value}}
    with pytest.raises(ValueError, match="candidate 1 has no finite value for quiz, item 5"):
        race.observe(given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], {"quiz": [0]}, QUIZ), "distinct candidates"),
        (([1, 1], {"quiz": [0]}, QUIZ), "distinct candidates"),
        (([0, 1], {"quiz": []}, QUIZ), "race items of every task"),
        (([0, 1], {"quiz": [0]}, TWO), "race items of every task"),
        (([0, 1], {"quiz": [0]}, QUIZ, 0.0), "alpha"),
        (([0, 1], {"quiz": [0]}, QUIZ, 0.05, 0), "rungs"),
    ],
)
def test_arguments_that_make_no_race_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Race(*arguments)


def lose_the_best(races, seed, alpha, n=80, candidates=8, gap=0.0):
    """In how many races candidate 0, better than the others by `gap`, is thrown out."""
    rng = np.random.default_rng(seed)
    lost = won = paid = 0
    for _ in range(races):
        difficulty = rng.beta(1, 1, n) * (1 - gap)  # the same for all: answers are correlated
        right = (
            rng.random((candidates, n)) < difficulty + gap * (np.arange(candidates) == 0)[:, None]
        )
        race = Race(range(candidates), {"quiz": list(range(n))}, QUIZ, alpha)
        _, evaluations = run(race, lambda c, _, i, right=right: float(right[c, i]))
        lost += 0 not in race.alive
        won += race.winner == 0
        paid += evaluations
    return lost / races, won / races, paid / races / (n * candidates)


def test_the_truly_best_is_thrown_out_no_more_often_than_alpha():
    # all equal, so each one is best, and the leader is whoever was lucky; alpha is set high
    # enough that breaking it would show
    races, alpha = 500, 0.3
    lost, _, _ = lose_the_best(races, seed=0, alpha=alpha)
    assert lost <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / races)


def test_a_race_finds_a_better_candidate_for_fewer_items_than_scoring_everyone():
    lost, won, paid = lose_the_best(40, seed=1, alpha=0.05, n=320, gap=0.3)
    assert lost == 0
    assert won == 1.0
    assert paid < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_over_a_thousand_null_races_alpha_holds(alpha):
    races = 1000
    lost, won, paid = lose_the_best(races, seed=2, alpha=alpha)
    print(f"alpha {alpha}: best lost {lost:.3f}, won {won:.3f}, items paid {paid:.2f}")
    assert lost <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / races)
