"""Optimizers that learn from the gradient of a loss at each point."""
