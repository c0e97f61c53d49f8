"""Models: the arms that a router chooses among, and the files of checkpoints."""
