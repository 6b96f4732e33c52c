"""Runs merge methods in one pass over each tensor, native or in blocks, with cached rankings."""
