"""Outcomes that others have recorded: from their files into a database, as one more experiment.

An importer reads one format and gives a `Recording`: questions, and cells (who was called on a
question, what it said, how good that was, what it cost). From there on all formats are one: cells
are checked, become the rows that sampling would have written, and an experiment file is written
beside the database. To add a format, register a function of paths in `IMPORTERS`; its options are
its keyword-only parameters. Every module here is imported with the package.
"""

from hcache.plugins import load_package
from hcache.recorded.recording import IMPORTERS, Importer, Recording

__all__ = ["IMPORTERS", "Importer", "Recording"]

load_package(__name__, __path__)
