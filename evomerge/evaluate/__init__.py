"""Scores the model as it stands on lm-eval tasks: prepared once, asked again and again."""
