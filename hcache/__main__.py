"""Runs the command line: `python -m hcache` is `hcache`."""

from hcache.commands import main

if __name__ == "__main__":
    main()
