"""Tasks over long texts: needles, and states to follow."""
