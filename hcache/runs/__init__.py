"""Runs: what was trained, how, and how it is evaluated; a folder each."""
