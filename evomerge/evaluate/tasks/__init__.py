"""Turns lm-eval tasks, text files and functions into prepared requests, and grades answers."""
