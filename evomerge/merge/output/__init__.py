"""Writes what goes with merged weights: model card, licences, and extracted adapters."""
