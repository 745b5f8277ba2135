"""Training from the command line: runs, plans, and what reinforcement learning has sampled."""
