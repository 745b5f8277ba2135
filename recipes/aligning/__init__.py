"""Alignment: a policy, the order of roles, and politeness where a model is out of its depth."""
