"""Computes the distribution of a mean whose values are weighted at random (a Bayesian bootstrap).

Weights are uniform over all that add up to 1: with E_i independent exponentials and m_i copies of
the value v_i,

    P(mean <= x) = P(Σ_i (v_i - x) G_i <= 0),    G_i ~ Gamma(m_i), the sum of m_i exponentials

That is a sum with the moment generating function exp(K(s)), K(s) = -Σ_i m_i log(1 - (v_i - x) s),
and its tail an integral of exp(K(s)) / s along a line in the complex plane (Lugannani & Rice 1980,
https://doi.org/10.2307/1426607, equation 3). The line goes through the saddle point, where nothing
cancels: small probabilities have a small relative error, about 1e-12.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri

Floats = NDArray[np.float64]

# Where the line is looked at, in units of the integrand's width: s = c + i width sinh(v). So it
# reaches far with few points, for two values as for thousands; the trapezoid rule is then exact.
_STEP = 0.05
_V = np.arange(0.0, 12.0, _STEP).reshape(-1, 40)  # in parts, of which many values need few
_SINH, _WEIGHTS = np.sinh(_V), _STEP * np.cosh(_V)
_WEIGHTS[0, 0] /= 2  # the trapezoid's end
_SINH.flags.writeable = _WEIGHTS.flags.writeable = False
_SMALL = 1e-14  # of the integral: where it ends


def below(values: Floats, counts: Floats, x: float) -> float:
    """Return P(mean <= x).

    Args:
        values: Distinct values, (k,).
        counts: How often each stands in the mean, (k,).
        x: Where.

    >>> values, counts = np.array([-1.0, 1.0]), np.array([3.0, 6.0])
    >>> round(below(values, counts, 0.0) * 2**8, 9)  # of 8 coins, 6 or more are heads
    37.0
    """
    if x < values.min():
        return 0.0
    if x >= values.max():
        return 1.0
    a = values - x
    a, m = a[a != 0], counts[a != 0]
    if not (a < 0).any():  # x is the lowest value
        return 0.0
    return _lower_tail(a, m) if float(a @ m) > 0 else 1.0 - _lower_tail(-a, m)


def quantile(values: Floats, counts: Floats, probability: float) -> float:
    """Return the x with P(mean <= x) = `probability`."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low
    wanted = float(ndtri(probability))

    def excess(x: float) -> float:  # nearly linear in x
        return float(ndtri(min(max(below(values, counts, x), 1e-300), 1.0 - 1e-15))) - wanted

    total = float(counts.sum())
    mean = float(values @ counts) / total
    far = 8.0 * math.sqrt(float((values - mean) ** 2 @ counts) / (total * (total + 1.0)))
    start, end = max(low, mean - far), min(high, mean + far)
    start, end = (low if excess(start) > 0 else start), (high if excess(end) < 0 else end)
    return float(brentq(excess, start, end, xtol=1e-10 * (high - low)))


def _lower_tail(a: Floats, m: Floats) -> float:
    """Return P(Σ a_i G_i <= 0) where the sum's mean is positive."""
    end = 1.0 / float(a.min())  # K is finite right of it

    def slope(s: float) -> float:  # of K(s) - log(-s)
        return float(m @ (a / (1.0 - a * s))) - 1.0 / s

    c = float(brentq(slope, end * (1.0 - 1e-12), end * 1e-12, xtol=-end * 1e-12))
    width = 1.0 / math.sqrt(float(m @ (a / (1.0 - a * c)) ** 2) + 1.0 / c**2)
    total = 0.0
    for sinh, weights in zip(_SINH, _WEIGHTS, strict=True):
        s = c + 1j * width * sinh  # (points,)
        areas = np.exp(-(m @ np.log(1.0 - a[:, None] * s))) / -s * weights
        total += float(areas.real.sum())
        if abs(areas[-1]) < _SMALL * abs(total):
            break
    return min(max(total * width / math.pi, 0.0), 1.0)
