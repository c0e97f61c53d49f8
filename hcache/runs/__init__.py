"""Runs: what was trained, how, and how it is judged; a folder each."""
