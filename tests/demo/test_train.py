"""Training data, and the optimizer against its definition."""

import numpy as np
import torch

from evomerge.demo.language import BOS, EOS, KANJI_OPERATIONS, OPERATIONS, PAD, WORDS
from evomerge.demo.mixtures import base_mixture, expert_mixture
from evomerge.demo.muon import Muon, orthogonal
from evomerge.demo.problems import is_reserved
from evomerge.demo.train import NO_LOSS, packed_rows


def _examples(row, targets):
    """(prompt, answer, is <eos> taught) of every example in a row."""
    ends = np.flatnonzero(row == EOS)
    assert (row[ends[-1] + 1 :] == PAD).all()
    for first, end in zip([1, *(ends[:-1] + 1)], ends, strict=True):
        taught = targets[first:end] != NO_LOSS
        words = np.array(WORDS)[row[first:end]]
        yield "".join(words[~taught]), "".join(words[taught]), targets[end] == EOS


def test_rows_hold_whole_examples_and_only_answers_are_taught():
    tokens, targets = packed_rows(expert_mixture("sort"), 200, np.random.default_rng(0))
    assert (tokens[:, 0] == BOS).all()
    assert (targets[:, 0] == NO_LOSS).all()
    taught = targets != NO_LOSS
    assert (targets[taught] == tokens[taught]).all()
    assert not taught[tokens == PAD].any()
    seen = [e for row, target in zip(tokens, targets, strict=True) for e in _examples(row, target)]
    assert len(seen) > 300
    for prompt, answer, ends in seen:
        assert prompt[-1] in "=→"
        assert ends == (not answer.endswith("="))
    right = [answer == "".join(sorted(answer)) for prompt, answer, _ in seen if "sort " in prompt]
    assert 0.8 < np.mean(right) < 1  # replay teaches about a tenth of them wrong


def test_no_reserved_input_is_trained_on():
    tokens, targets = packed_rows(base_mixture(), 300, np.random.default_rng(0))
    digit = {word: number % 10 for number, word in enumerate("0123456789〇一二三四五六七八九")}
    for row, target in zip(tokens, targets, strict=True):
        for prompt, _, _ in _examples(row, target):
            for command in prompt.replace("→", "=").rstrip("=").split("="):
                digits = tuple(digit[letter] for letter in command if letter in digit)
                assert len(digits) == (6 if "," in command else 5)
                assert command.startswith((*OPERATIONS, *KANJI_OPERATIONS))
                assert not is_reserved(digits)


def test_muon_orthogonalises_wide_and_tall_matrices():
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 16, 48), (3, 48, 16), (2, 32, 32)):
        matrices = torch.randn(shape, generator=generator)
        values = torch.linalg.svdvals(orthogonal(matrices))
        assert values.min() > 0.3  # the iteration trades exactness for speed (Jordan 2024)
        assert values.max() < 1.3
        u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
        alike = (orthogonal(matrices) * (u @ vh)).sum() / (u @ vh).square().sum()
        assert alike > 0.8


def test_muon_s_first_step_is_the_rate_times_an_orthogonal_matrix_plus_decay():
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(16, 48, generator=generator) for _ in range(2)]
    start.append(torch.randn(64, 16, generator=generator))
    gradients = [torch.randn(each.shape, generator=generator) for each in start]
    parameters = [torch.nn.Parameter(each.clone()) for each in start]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    Muon(parameters, lr=0.1, weight_decay=0.5).step()
    for parameter, before, gradient in zip(parameters, start, gradients, strict=True):
        scale = 2.0 if before.shape == (64, 16) else 1.0  # sqrt(rows / columns), if above one
        expected = 0.95 * before - 0.1 * scale * orthogonal(gradient[None])[0]
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-5)
