"""Embedding rows that follow their tokens, the tokenizer of the result, and its chat template."""
