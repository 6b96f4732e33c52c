"""Mergekit's own files, read as recipes and spaces, and recipes written as mergekit runs them."""
