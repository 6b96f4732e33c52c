"""A recipe and its parents become weights, in a live model or on disk."""
