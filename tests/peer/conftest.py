"""Scripts for mergekit's interpreter are no tests: importing them here would fail."""

collect_ignore = ["make_golden.py", "run_mergekit.py"]
