"""Compares tensors with float64 numpy."""

import numpy as np


def exact(*tensors):
    return [tensor.numpy().astype(np.float64) for tensor in tensors]


def close(tensor, array, tolerance=1e-5):
    np.testing.assert_allclose(tensor.numpy(), array, rtol=tolerance, atol=tolerance)
    return True
