"""Runs work in child processes or Ray actors, and schedules it."""
