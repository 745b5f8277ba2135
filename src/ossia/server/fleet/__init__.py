"""Several servers that share one store: who is there, and who has what lives in a process."""
