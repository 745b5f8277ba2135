"""What all APIs say in the same words. Knows no API."""
