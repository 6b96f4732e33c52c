"""Makes embedding rows follow their tokens, and the result's tokenizer and chat template."""
