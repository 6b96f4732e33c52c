"""Computes with numbers only: outcomes, pools, paired differences, the race, the verdict."""
