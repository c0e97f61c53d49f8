"""What is measured about hcache: speed, learning, growth, coverage of intervals, faults."""
