"""Scores a live model on items: tasks, likelihoods, generation, and one outcome per item."""
