"""Keeps a copy of a run folder elsewhere, from which another machine goes on."""
