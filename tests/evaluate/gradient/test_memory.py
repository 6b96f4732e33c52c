"""Activations counted: a layer worked out by hand, and what is freed again."""

from __future__ import annotations

import torch
from torch import nn

from evomerge.evaluate.gradient.memory import activations


def test_a_linear_layer_keeps_its_inputs_and_a_relu_its_outputs() -> None:
    model = nn.Sequential(nn.Linear(8, 32, bias=False), nn.ReLU())
    inputs = torch.randn(5, 8)
    with activations(model) as counted:
        model(inputs).sum().backward()
    assert counted.peak == 4 * (5 * 8 + 5 * 32)  # float32; the weight itself is not counted


def test_the_peak_is_of_one_pass_when_each_is_freed_before_the_next() -> None:
    model = nn.Sequential(nn.Linear(8, 32, bias=False), nn.ReLU())
    with activations(model) as counted:
        for rows in (5, 2, 5):
            model(torch.randn(rows, 8)).sum().backward()
        once = counted.peak
        both = model(torch.randn(5, 8)).sum() + model(torch.randn(5, 8)).sum()
        both.backward()
    assert once == 4 * 5 * (8 + 32)
    assert counted.peak == 2 * once
