"""The gradient of a loss by a merge's coefficients, from that by its weights."""
