"""A model as transformers loads it: the one place that says what a config and its names mean."""
