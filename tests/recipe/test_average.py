"""Averages over a run's checkpoints, each against its formula worked in float64."""

import json
import random

import pytest
import torch

from evomerge.cli import main
from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.recipe import average as trajectory
from evomerge.recipe.recipe import Recipe
from tests.models import load, make_family

NAMES = "abcdef"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Six checkpoints in folders as the Trainer names them; not in the order of the alphabet."""
    folder = tmp_path_factory.mktemp("run")
    names = [f"checkpoint-{step}" for step in (50, 100, 150, 200, 1000, 1050)]
    family = make_family(folder, names=names)
    return [family[name] for name in names]


def built(recipe, tmp_path):
    build(recipe, tmp_path / "out")
    return load(tmp_path / "out")


def assert_is(recipe, run, weights, tmp_path):
    merged, loaded = built(recipe, tmp_path), [load(folder) for folder in run]
    for name, tensor in merged.items():
        weighted = zip(weights, loaded, strict=True)
        expected = sum(weight * model[name].double() for weight, model in weighted)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)


def test_uniform_is_the_mean_of_the_tail(run, tmp_path):
    sixth, half = 1 / 6, 1 / 2
    assert_is(trajectory.uniform(run), run, [sixth] * 6, tmp_path / "all")
    spaced = trajectory.uniform(run, start=2, stride=2)
    assert_is(spaced, run, [0, 0, half, 0, half, 0], tmp_path / "tail")


def test_swa_is_a_running_mean(run, tmp_path):
    # Izmailov 2018: w_swa <- (n w_swa + w) / (n + 1)
    running = {name: tensor.double() for name, tensor in load(run[0]).items()}
    for n, folder in enumerate(run[1:], 1):
        tensors = load(folder)
        running = {k: (n * mean + tensors[k].double()) / (n + 1) for k, mean in running.items()}
    for recipe, folder in [(trajectory.uniform(run), "u"), (trajectory.cumulative(run), "c")]:
        for name, tensor in built(recipe, tmp_path / folder).items():
            torch.testing.assert_close(tensor.double(), running[name], rtol=1e-6, atol=1e-7)


def test_last_is_the_mean_of_the_latest(run, tmp_path):
    third = 1 / 3
    assert_is(trajectory.last(run, k=3), run, [0, 0, 0, third, third, third], tmp_path / "three")
    spaced = trajectory.last(run, k=3, stride=2)
    assert_is(spaced, run, [0, third, 0, third, 0, third], tmp_path / "spaced")
    only = built(trajectory.last(run, k=1), tmp_path / "one")
    assert all(torch.equal(tensor, load(run[-1])[name]) for name, tensor in only.items())
    assert trajectory.last(run, k=6).digest == trajectory.uniform(run).digest


def test_ema_is_its_recursion(run, tmp_path):
    decay = 0.7
    average = {name: tensor.double() for name, tensor in load(run[0]).items()}
    for folder in run[1:]:
        tensors = load(folder)
        average = {k: decay * m + (1 - decay) * tensors[k].double() for k, m in average.items()}
    recipe = trajectory.ema(run, decay=decay)
    for name, tensor in built(recipe, tmp_path / "ema").items():
        torch.testing.assert_close(tensor.double(), average[name], rtol=1e-6, atol=1e-7)
    weights = [entry.parameters["weight"] for entry in recipe.models]
    assert sum(weights) == pytest.approx(1.0)
    newest = built(trajectory.ema(run, decay=0.0), tmp_path / "newest")
    assert all(torch.equal(tensor, load(run[-1])[name]) for name, tensor in newest.items())


@pytest.mark.parametrize(
    ("losses", "window"),
    [
        # by hand, N_s 3, N_e 6, r 1.3
        ([5, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3], (2, 12)),  # a flat valley: all of it
        ([5, 3, 3, 3, 9, 9, 9, 9, 9, 9], (1, 4)),  # a wall ends it
        ([5, 3, 3, 3, 9, 9, 9, 9, 9, 3], (1, 10)),  # one good loss in six keeps it
        ([6, 5, 4, 3, 2, 1], (5, 6)),  # never there: the last
        ([1, 2], (1, 2)),  # too short to tell
        ([1, 1, 1, 1.29, 1.31, 1.31, 1.31, 1.31, 1.31, 1.31], (0, 4)),  # above 1.3, not at 1.29
    ],
)
def test_the_window_is_the_papers(losses, window):
    assert trajectory.swad_window(losses) == window
    assert trajectory.swad_window(losses) == by_the_algorithm(losses, 3, 6, 1.3)


def by_the_algorithm(losses, n_s, n_e, r):
    """Cha 2021, algorithm 1, iteration by iteration with 0-based numbers."""
    start = threshold = None
    for i in range(len(losses)):
        if start is None:
            if i + 1 >= n_s and losses[i - n_s + 1] == min(losses[i - n_s + 1 : i + 1]):
                start = i - n_s + 1
                threshold = r / n_s * sum(losses[start : i + 1])
        elif i - n_e >= start and min(losses[i - n_e + 1 : i + 1]) > threshold:
            return start, i - n_e + 1
    return (len(losses) - 1, len(losses)) if start is None else (start, len(losses))


def test_the_window_is_the_papers_on_random_curves():
    draw = random.Random(0)
    for _ in range(500):
        losses = [draw.choice([1.0, 1.2, 1.5, 2.0, 3.0]) for _ in range(draw.randint(1, 30))]
        settings = draw.randint(1, 4), draw.randint(1, 6), draw.choice([1.0, 1.3])
        n_s, n_e, r = settings
        if n_e >= n_s:  # the algorithm looks at overfitting only once it has converged
            assert trajectory.swad_window(losses, *settings) == by_the_algorithm(
                losses, n_s, n_e, r
            )


def test_swad_is_the_mean_of_its_window(run, tmp_path):
    losses = [5, 1, 2, 2, 9, 9]
    recipe = trajectory.swad(run, losses=losses, overfit=2)
    assert_is(recipe, run, [0, 1 / 3, 1 / 3, 1 / 3, 0, 0], tmp_path / "swad")


def test_a_soup_of_averages_gives_every_run_the_same_say(run, tmp_path):
    recipe = trajectory.soup_of_averages([run[:4], run[4:]])
    eighth, quarter = 1 / 8, 1 / 4
    assert_is(recipe, run, [eighth] * 4 + [quarter] * 2, tmp_path / "soup")
    assert recipe.digest != trajectory.uniform(run).digest


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda run: trajectory.uniform(run, start=6), r"`0 <= start < 6` .* got \(start=6"),
        (lambda _run: trajectory.uniform([]), r"`0 <= start < 0`"),
        (lambda run: trajectory.last(run, k=7), "expected k checkpoints 1 apart among 6"),
        (lambda run: trajectory.ema(run, decay=1.0), r"`0 <= decay < 1` must hold"),
        (lambda run: trajectory.swad(run, losses=[1.0]), "expected 6 finite losses"),
        (lambda run: trajectory.swad(run, losses=[float("nan")] * 6), "expected 6 finite losses"),
        (lambda run: trajectory.soup_of_averages([run]), "expected two or more runs"),
    ],
)
def test_an_average_that_cannot_be_made_is_refused_with_the_reason(run, wrong, message):
    with pytest.raises(UserError, match=message):
        wrong(run)


def printed(capsys, *arguments):
    assert main(["trajectory", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_command_prints_the_recipe(run, tmp_path, capsys):
    (tmp_path / "ema.yaml").write_text(printed(capsys, "ema", *run, "--decay", 0.5))
    recipe = Recipe.from_yaml(tmp_path / "ema.yaml")
    assert recipe == trajectory.ema(run, decay=0.5)
    folder = run[0].rpartition("/")[0]
    file = tmp_path / "last.yaml"
    assert printed(capsys, "last", folder, "--k", 2, "--out", file) == f"{file}\n"
    assert Recipe.from_yaml(file).model_names == run[-2:]
    (tmp_path / "losses.json").write_text(json.dumps([5, 1, 2, 2, 9, 9]))
    text = printed(capsys, "swad", *run, "--losses", tmp_path / "losses.json", "--overfit", 2)
    (tmp_path / "swad.yaml").write_text(text)
    assert Recipe.from_yaml(tmp_path / "swad.yaml").model_names == run[1:4]
    runs = printed(capsys, "uniform", "--run", *run[:4], "--run", *run[4:])
    (tmp_path / "soup.yaml").write_text(runs)
    soup = Recipe.from_yaml(tmp_path / "soup.yaml")
    assert soup == trajectory.soup_of_averages([run[:4], run[4:]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["last", "a", "b"], "last: expected --k"),
        (["uniform", "a", "--k", "2"], "--k: uniform has no such option"),
        (["uniform"], "expected checkpoints"),
        (["swad", "a", "--losses", "not-there.json"], "not-there.json: expected a JSON list"),
        (["uniform", "{empty}"], "expected folders of checkpoints, such as checkpoint-500"),
    ],
)
def test_the_commands_mistakes_are_told_in_a_line(arguments, message, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    arguments = [argument.format(empty=tmp_path / "empty") for argument in arguments]
    assert main(["trajectory", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
