"""Optimizers that draw each point anew: uniformly, or by any Optuna sampler."""
