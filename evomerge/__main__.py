"""Lets ``python -m evomerge`` do what the `evomerge` command does."""

import sys

from evomerge.cli import main

sys.exit(main())
