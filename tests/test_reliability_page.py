"""docs/reliability.md: every promise has a test, and every test that it names is there."""

from __future__ import annotations

import re

from helpers.paths import ROOT

PAGE = ROOT / "docs" / "reliability.md"
LINK = re.compile(r"\]\((\.\./[^)#]+)\)")
TEST = re.compile(r"`(test_\w+)`")


def promises() -> list[str]:
    """The rows of the first table, without its head."""
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("| promise |") :].split("\n\n")[0]
    return table.splitlines()[2:]


def test_every_promise_has_tests_that_are_there() -> None:
    assert len(promises()) > 15
    for row in promises():
        files = [PAGE.parent / link for link in LINK.findall(row)]
        names = TEST.findall(row)
        assert names and files, row
        code = "".join(file.read_text(encoding="utf-8") for file in files)
        for name in names:
            assert re.search(rf"^def {name}\(", code, re.MULTILINE), (name, row)


def test_links_of_the_page_lead_somewhere() -> None:
    for link in LINK.findall(PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / link).exists(), link
