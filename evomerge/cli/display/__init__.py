"""Shows a search in a terminal: progress lines and the live panel."""
