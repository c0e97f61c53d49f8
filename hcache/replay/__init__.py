"""Replay: the stored trajectories of a split as tensors, and all that is exact on them."""
