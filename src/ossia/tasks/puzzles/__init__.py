"""Puzzles about numbers and words."""
