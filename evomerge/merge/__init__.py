"""Merging: a recipe and its parents become weights, in a live model or on disk."""

from evomerge.merge.build import digest, fill, live_tensors, tensors, write
from evomerge.merge.in_place import check_in_place
from evomerge.merge.make import build
from evomerge.merge.nested import open_parents, with_merges
from evomerge.merge.norms import squared_norms
from evomerge.merge.parents import Parents
from evomerge.merge.plan import Job, Plan, Ref, plan

__all__ = [
    "Job",
    "Parents",
    "Plan",
    "Ref",
    "build",
    "check_in_place",
    "digest",
    "fill",
    "live_tensors",
    "open_parents",
    "plan",
    "squared_norms",
    "tensors",
    "with_merges",
    "write",
]
