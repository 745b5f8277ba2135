"""Parts of recipes/nano.py: what its profiles spend, texts, what it is fine-tuned on, and how the
result stands beside the embedded model.
"""
