"""Trains a zoo of small models from scratch, for a search that starts in minutes."""

from evomerge.demo.children import Step
from evomerge.demo.study_file import write_study
from evomerge.demo.zoo import Zoo, make_zoo, print_step

__all__ = ["Step", "Zoo", "make_zoo", "print_step", "write_study"]
