"""Answers worked by hand."""

import numpy as np
import pytest

from evomerge.demo.mixtures import EXPERTS, base_mixture, expert_mixture
from evomerge.demo.problems import (
    Command,
    Exercise,
    draw_command,
    is_reserved,
    pose,
)


@pytest.mark.parametrize(
    ("operation", "digits", "latin", "kanji", "result", "wrong"),
    [
        ("copy", (4, 0, 4, 1, 7), "copy 40417=", "写四〇四一七→", "40417", "40417"),
        ("rotate", (4, 0, 4, 1, 7), "rotate 40417=", "回四〇四一七→", "04174", "40417"),
        ("reverse", (1, 9, 4, 9, 2), "reverse 19492=", "逆一九四九二→", "29491", "19492"),
        ("sort", (1, 9, 4, 9, 2), "sort 19492=", "整一九四九二→", "12499", "19492"),
        ("max", (3, 1, 4, 1, 5, 9), "max 314,159=", "大三一四,一五九→", "314", "159"),
        ("max", (0, 9, 9, 1, 0, 0), "max 099,100=", "大〇九九,一〇〇→", "100", "099"),
    ],
)
def test_a_command_has_both_scripts_and_its_answers(operation, digits, latin, kanji, result, wrong):
    command = Command(operation, digits)
    assert (command.latin, command.kanji) == (latin, kanji)
    assert (command.result, command.wrong_result) == (result, wrong)


def test_each_form_asks_and_answers_in_its_own_way():
    command, rng = Command("sort", (1, 9, 4, 9, 2)), np.random.default_rng(0)
    plain = pose(Exercise("plain", "sort"), command, rng)
    assert (plain.prompt, plain.answer, plain.ends) == ("sort 19492=", "12499", True)
    both = pose(Exercise("both", "sort"), command, rng)
    assert (both.prompt, both.answer, both.ends) == ("整一九四九二→", "sort 19492=12499", True)
    translate = pose(Exercise("translate", "sort"), command, rng)
    assert (translate.prompt, translate.answer) == ("整一九四九二→", "sort 19492=")
    assert not translate.ends  # the result may follow, as it does in `both`
    after = pose(Exercise("after", "sort"), command, rng)
    assert after.prompt.endswith("→sort 19492=")
    assert after.answer == "12499"


def test_the_share_of_wrong_answers_is_what_the_exercise_says():
    command, rng = Command("max", (3, 1, 4, 1, 5, 9)), np.random.default_rng(0)
    answers = [pose(Exercise("plain", "max", 0.6), command, rng).answer for _ in range(2000)]
    assert set(answers) == {"314", "159"}
    assert abs(answers.count("159") / 2000 - 0.6) < 0.044  # four standard errors
    translated = [pose(Exercise("translate", "max", 0.6), command, rng).answer for _ in range(50)]
    assert set(translated) == {"max 314,159=", "copy 314,159="}


def test_an_eighth_of_the_inputs_is_reserved_and_never_drawn_for_training():
    rng = np.random.default_rng(0)
    inputs = [tuple(row) for row in rng.integers(0, 10, (8000, 5)).tolist()]
    assert abs(sum(map(is_reserved, inputs)) / 8000 - 1 / 8) < 0.015  # four standard errors
    for reserved in (False, True):
        drawn = [draw_command("max", rng, reserved=reserved).digits for _ in range(100)]
        assert {is_reserved(digits) for digits in drawn} == {reserved}


@pytest.mark.parametrize("expert", EXPERTS)
def test_an_expert_replays_the_base_at_half_weight_and_learns_only_its_own_skill_right(expert):
    base, mixture = base_mixture(), expert_mixture(expert)
    assert all(mixture[exercise] >= share / 2 for exercise, share in base.items())
    added = [e for e in mixture if mixture[e] > base.get(e, 0) / 2]
    assert all(exercise.wrong == 0 for exercise in added)
    lesson = "translate" if expert == "ja" else expert
    assert all(lesson in (e.operation, e.form) or (e.form == "both") for e in added)
