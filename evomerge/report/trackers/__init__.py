"""Reports a study to trackers: TensorBoard, MLflow, Weights & Biases."""

from evomerge.report.trackers.tracker import Tracker, open_tracker

__all__ = ["Tracker", "open_tracker"]
