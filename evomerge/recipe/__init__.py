"""Describes one fully specified merge, recipes inside recipes, and averages of checkpoints."""
