"""The configuration: what can be set, where each value came from, and what a run shares.

Imports only `base`. Read in this order: `section.py` (what a section is), `sections.py` and the
sections it names, `tree.py` (walking them), `text.py` (values from text and YAML), `layers.py`
(one source of values), `problems.py` (errors for people), `load.py` (everything merged),
`run.py` (what peers of a run must share), `flags.py` (every field as a command line flag).
"""
