"""Evaluation: routers against baselines on the same queries, with intervals."""
