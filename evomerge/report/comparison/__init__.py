"""Compares several runs: as data, in lines of text, and on a page."""
