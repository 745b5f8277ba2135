"""Reasoning: seeds, what they can do, rewards, and what is compared with them."""
