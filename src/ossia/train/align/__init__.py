"""Deliberative alignment (arXiv 2412.16339): answers that were thought out with a policy in sight,
learned without it, and then judged by it. docs/alignment.md is for who runs it.
"""
