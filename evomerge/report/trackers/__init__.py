"""Trackers that a study can report to: TensorBoard, MLflow, Weights & Biases."""

from evomerge.report.trackers.tracker import Tracker, open_tracker

__all__ = ["Tracker", "open_tracker"]
