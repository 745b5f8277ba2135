"""Evaluations one can believe: questions from the user's own files, answered by a model in process
or behind a URL, graded by readers of ours, with bounds, repeats and intervals.

`suites` knows the formats of files, `answers` grades, `run` asks and keeps what came, `stats` says
how certain it is. Does not know engines or models: it is given what answers. No torch.
"""
