"""Pictures of a run's report: `python tests/report/screenshots.py RUN OUT`.

Writes report.png (the head and the results, light) and report-rows.png (a revision chain, dark)
into the folder OUT. Needs what `make test-browser` installs.
"""

import sys
from pathlib import Path

from chromium import launch
from playwright.sync_api import sync_playwright

PICTURES = (
    ("report.png", "", {"color_scheme": "light", "viewport": {"width": 1200, "height": 1500}}),
    (
        "report-rows.png",
        "#show=revision&graded=last:+explained+refusal&found=changed",
        {"color_scheme": "dark", "viewport": {"width": 1200, "height": 1000}},
    ),
)


def main(run: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        if browser is None:
            sys.exit("There is no Chromium: `make test-browser` installs one.")
        for name, fragment, looks in PICTURES:
            page = browser.new_page(**looks)
            page.goto((run / "report.html").resolve().as_uri() + fragment)
            page.locator("#browser").wait_for()
            page.screenshot(path=out / name)
            page.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
