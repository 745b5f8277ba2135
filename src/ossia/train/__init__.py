"""Training: losses, schedules, a resumable state and the loop."""
