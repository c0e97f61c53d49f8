"""Outcomes on their way out: from a database into files that others read, one format per file.

An exporter takes a `Selection` (of which experiment and splits, with or without questions) and
gives an `Export`: a file or a folder, and what is to be said of it. To add a format, register a
function in `EXPORTERS`; its options are its keyword-only parameters. Every module here is imported
with the package.
"""

from hcache.exports.selection import EXPORTERS, Export, Exporter, Selection
from hcache.plugins import load_package

__all__ = ["EXPORTERS", "Export", "Exporter", "Selection"]

load_package(__name__, __path__)
