"""Plots of a study for notebooks and papers, on matplotlib: `em.plot.convergence(study)`, …

Each function takes a `Study` or a run folder, draws into `ax` or a new figure, and returns the
axes.
"""

from evomerge.report.plot.plots import (
    coefficients,
    convergence,
    heldout,
    importance,
    pareto,
    path,
)

__all__ = ["coefficients", "convergence", "heldout", "importance", "pareto", "path"]
