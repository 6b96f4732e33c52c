"""Computes likelihoods of continuations in batched forward passes that share prefixes."""
