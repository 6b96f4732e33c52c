"""Where work runs: child processes or Ray actors, and how units of work reach them."""
