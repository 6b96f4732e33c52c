"""Proposes a study: which of some models is the base, which tasks, how long, on which workers."""
