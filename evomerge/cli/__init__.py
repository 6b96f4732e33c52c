"""Runs the command line: `evomerge COMMAND`. Heavy imports wait until a command needs them."""

from evomerge.cli.main import main

__all__ = ["main"]
