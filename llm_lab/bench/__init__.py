"""The benchmark of the package: speed as ratios taken in one run, in turns, against goals.

    python -m llm_lab.bench [PART …] [--rounds N] [--json FILE]

`options` has the table of the parts, `measuring` the turns and the statistics; each part is one file.
"""
