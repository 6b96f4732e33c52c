"""Merge methods lowered to one pass over each tensor, native or blocked, with cached rankings."""
