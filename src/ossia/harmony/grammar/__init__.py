"""The grammar of a completion: which tokens may come next, given the tools and formats."""
