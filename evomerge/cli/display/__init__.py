"""A search as seen in a terminal: progress lines and the live panel."""
