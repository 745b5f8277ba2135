"""The command line: one file a command; `main` knows them all. Knows everything; nothing knows it."""
