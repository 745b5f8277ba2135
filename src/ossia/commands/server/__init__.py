"""The options of `ossia serve`, and what they mean as the server's settings."""
