"""The version of evomerge that journals, cards and reports name."""

__version__ = "0.2.0"
