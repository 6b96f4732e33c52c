"""Answers and likelihoods become a smooth score and the task's own metric, item by item."""
