"""The command line: `hcache COMMAND`, a thin shell over the package.

Heavy imports stay inside the commands that need them, so that `hcache sql` loads no torch and
`hcache train` no vLLM. Exit codes: 0; 1 an error that the user can act on; 2 wrong usage; 130,
143 and 129 after Ctrl-C (SIGINT), SIGTERM and SIGHUP, once all that was finished is safe.
"""

from hcache.commands.app import main

__all__ = ["main"]
