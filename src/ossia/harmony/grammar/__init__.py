"""The grammar of a completion: which tokens may come next, with the schemas of tools and formats."""
