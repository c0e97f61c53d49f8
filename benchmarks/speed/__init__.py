"""Speed and size of what hcache does, beside what others do."""
