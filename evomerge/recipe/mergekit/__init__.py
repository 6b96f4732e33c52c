"""Reads mergekit's own files as recipes and spaces, and writes recipes as mergekit runs them."""
