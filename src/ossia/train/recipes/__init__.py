"""Named recipes of `ossia train`."""
