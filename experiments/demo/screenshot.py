"""The README's picture: a screenshot of a run's page. `python experiments/demo/screenshot.py URL_OF_RUN OUT.png`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    """Open the page, wait for its charts, save a picture."""
    url, out = sys.argv[1], Path(sys.argv[2])
    arguments = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page(viewport={"width": 1400, "height": 1000}, device_scale_factor=1.5)
        page.goto(url)
        page.get_by_test_id("scatter").locator("canvas").wait_for()
        page.wait_for_timeout(2000)  # the charts' opening movement
        page.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main()
