"""Scripts for mergekit's interpreter are no tests: importing them here would fail."""

collect_ignore = ["make_golden.py", "resolve_settings.py", "run_mergekit.py"]
