"""Runs hcache from a checkout: `python cli.py …` is `hcache …`."""

from hcache.commands import main

if __name__ == "__main__":
    main()
