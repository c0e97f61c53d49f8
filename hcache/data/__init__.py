"""Data: questions in, scores out."""
