"""Keeps the append-only log that is the run: written, checked, recovered, replayed."""
