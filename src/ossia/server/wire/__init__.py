"""What all four APIs say in the same words. Knows no API."""
