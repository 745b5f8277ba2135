"""What outlasts a request: responses, conversations, approved calls, remembered reasoning.

`protocol.py` is what a database has to do, `sqlite.py` and `postgres.py` are two that do it;
everything else here is written once, above them.
"""
