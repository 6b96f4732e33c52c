"""A base and four fine-tunes of it, one small tensor each."""

import numpy as np
import pytest
import torch


@pytest.fixture
def base():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(7, 5))).float()


@pytest.fixture
def models(base):
    draw = np.random.default_rng(1)
    return [base + torch.from_numpy(0.3 * draw.normal(size=(7, 5))).float() for _ in range(4)]
