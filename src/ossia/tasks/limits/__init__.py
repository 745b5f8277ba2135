"""What a very small model cannot do, and how it says so: small talk, nonsense, sums that are too
large, words that nobody knows; and answers in a given format.
"""
