"""Runs the phases of a study in order: check, anchors, search, race, verdict, export."""
