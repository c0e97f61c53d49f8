"""The page of a report in a real browser: it is seen, it fits, it runs nothing and asks nobody."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.reports import ARMS, HOSTILE, hostile_report

from hcache.data.visible import visible

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDTHS = [(1366, 768, False), (390, 844, True)]  # a laptop, a phone


def programs() -> tuple[str, str]:
    """Browser and driver; without them the test is skipped, in continuous integration it fails."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    missing = "chromium and chromedriver are not installed (Debian: chromium, chromium-driver)"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium with a profile of its own, which keeps its logs."""
    binary, driver = programs()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_report(tmp_path_factory.mktemp("page")).folder / "index.html"


def show(browser: Any, page: Path, width: int, height: int, mobile: bool) -> None:
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(page.as_uri())


def requests(browser: Any) -> set[str]:
    """Addresses that were asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
    return {event["params"]["request"]["url"] for event in sent}


@pytest.mark.parametrize(("width", "height", "mobile"), WIDTHS)
def test_page_is_seen_and_fits(
    browser: Any, page: Path, width: int, height: int, mobile: bool
) -> None:
    show(browser, page, width, height, mobile)
    drawings = browser.find_elements("css selector", "figure svg")
    assert len(drawings) == 4
    for drawing in drawings:
        assert drawing.is_displayed()
        assert drawing.size["width"] > 300 and drawing.size["height"] > 100
    for details in browser.find_elements("css selector", "details > summary"):
        details.click()
    assert len(browser.find_elements("css selector", "details[open]")) > 2
    inner, needed = browser.execute_script(
        "return [window.innerWidth, document.documentElement.scrollWidth]"
    )
    assert inner == width and needed <= inner
    smallest = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('figure svg text')].map("
        "text => text.getBoundingClientRect().height))"
    )
    assert smallest >= 7


def test_drawn_texts_do_not_leave_their_figure(browser: Any, page: Path) -> None:
    show(browser, page, *WIDTHS[1])
    outside = browser.execute_script("""
        return [...document.querySelectorAll('figure svg text')].filter(text => {
            const own = text.getBoundingClientRect();
            const whole = text.ownerSVGElement.getBoundingClientRect();
            return own.left < whole.left - 1 || own.right > whole.right + 1
                || own.top < whole.top - 1 || own.bottom > whole.bottom + 1;
        }).map(text => text.textContent)""")
    assert outside == []


def test_nothing_is_executed_nothing_is_asked(browser: Any, page: Path) -> None:
    requests(browser), browser.get_log("browser")
    show(browser, page, *WIDTHS[0])
    asked = requests(browser)
    assert page.as_uri() in asked and asked <= {page.as_uri(), "data:,"}
    assert browser.get_log("browser") == []
    assert browser.title == "small: routers evaluated on test"
    assert browser.find_elements("css selector", "script, main img, [onload], [onerror]") == []
    text = browser.execute_script("return document.body.textContent")
    assert visible(HOSTILE.strip()) in text
    assert all(name in text for name in ARMS)
