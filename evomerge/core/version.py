"""Names the version of evomerge that journals, cards and reports show."""

__version__ = "0.2.0"
