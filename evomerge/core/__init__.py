"""The ground floor: errors, files that appear whole, YAML, strict reading. No domain words."""
