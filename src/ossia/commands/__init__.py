"""The command line: one file a command, and `main` knows them all. Nothing else imports this."""
