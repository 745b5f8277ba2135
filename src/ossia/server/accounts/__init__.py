"""Who asks, what they have used, and what belongs to them: for a team on one or several servers."""
