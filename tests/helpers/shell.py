"""A command line that tests type into."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hcache.commands import main


@dataclass
class Shell:
    """Runs commands in a folder that holds experiment.yaml."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run one command in this process; its output, or its errors where it is to fail."""
        self.patch.chdir(self.folder)
        self.patch.setattr(sys, "argv", ["hcache", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        printed = self.capture.readouterr()
        assert (end.value.code or 0) == code, printed.err
        return printed.err if code else printed.out

    def sets(self, *values: str) -> list[str]:
        """Overrides as arguments."""
        return [part for value in values for part in ("--set", value)]
