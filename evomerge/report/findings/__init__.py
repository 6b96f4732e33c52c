"""Says what a run shows, as numbers: shared by the page, the plots, and the comparison of runs."""
