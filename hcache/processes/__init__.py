"""Processes of ours beside each other: what asks them to end, and what ends with whom."""
