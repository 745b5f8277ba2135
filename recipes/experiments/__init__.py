"""The experiments of the report: each shows what one idea of the recipe does, with a criterion
fixed beforehand.

    results.py   estimates with intervals, criteria, what an experiment writes down; no torch
    common.py    small models, held-out text, training of many runs
    balance.py (E2)   sinks.py (E3)   stride.py (E4)   filtering.py (E5)   length.py (E6)
    quantization.py (E10)
    backcopy.py  sequences for E3, in which attention mostly has nothing to do
    plots.py     panels as SVG         page.py   all results as one Markdown page

An experiment is a function `run(lab, out)` that trains what is not trained yet and writes
`out/results.json`.
"""
