"""Holds the parents of a merge in memory, nested merges among them."""
