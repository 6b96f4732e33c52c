"""Charts drawn as SVG text, without a plotting library."""
