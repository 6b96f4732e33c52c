"""Generates answers with the live model, by our own loop, by lm-eval's, or by vLLM."""
