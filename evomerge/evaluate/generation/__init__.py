"""Generated answers, decoded by the live model or by vLLM."""
