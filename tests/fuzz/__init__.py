"""Fuzzing: hostile inputs, in process, of which each must end well or in an `HcacheError`.

    python -m tests.fuzz TARGET --minutes N --seed S

runs one target of `targets.py`; `make fuzz` runs all. A case follows from target, seed and number
alone, so that a finding can be made again.
"""
