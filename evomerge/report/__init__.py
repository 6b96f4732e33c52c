"""Reports on a run from its journal alone: an HTML page and lines of text. No torch."""

from evomerge.report.pace import Pace
from evomerge.report.page.page import write_report
from evomerge.report.status import status_text, summary

__all__ = ["Pace", "status_text", "summary", "write_report"]
