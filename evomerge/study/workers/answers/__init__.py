"""A worker's answers: several candidates at once, exports, and their form between processes."""
