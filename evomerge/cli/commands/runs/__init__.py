"""Holds the commands that look at a run folder: status, watch, report and others."""
