"""Trackers that a study can tell how it goes: TensorBoard, MLflow, Weights & Biases."""

from evomerge.report.trackers.tracker import Logger, open_logger

__all__ = ["Logger", "open_logger"]
