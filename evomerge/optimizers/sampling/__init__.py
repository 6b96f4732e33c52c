"""Optimizers that draw each point anew: uniformly, or by an Optuna sampler."""
