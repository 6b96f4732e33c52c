"""Draws charts as SVG text, without a plotting library."""
