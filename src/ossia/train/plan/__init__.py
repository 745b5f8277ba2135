"""What a run would cost, and how to lay it out on the devices there are."""
