"""lm-eval tasks, text files and functions become prepared requests; the one door to lm_eval."""
