"""Runs a study: the search in a directory, from the check to the exported winner."""
