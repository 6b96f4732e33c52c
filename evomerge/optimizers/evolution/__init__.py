"""Optimizers that keep a population or a distribution of points and move it by rank."""
