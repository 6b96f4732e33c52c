"""Models and recipes evaluated on whole tasks, item by item, and compared in pairs."""
