"""Writes the HTML report, a file for each of its sections."""
