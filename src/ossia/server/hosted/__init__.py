"""Tools that the server runs itself: who may use them, what is counted, what answers cite, and the
files that they leave. How an API shows their calls is the API's own.
"""
