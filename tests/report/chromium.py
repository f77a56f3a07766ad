"""The browser of the tests and the screenshots: any Chromium that starts, or Playwright's own.

As a script it says which one, and exits with status 1 when there is none.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, Error, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def launch(playwright: Playwright) -> Browser | None:
    """Start the browser headless, with a profile of its own; None if none starts.

    Some systems have a `chromium-browser` that only tells how to install one.
    """
    for path in (*filter(None, map(shutil.which, NAMES)), playwright.chromium.executable_path):
        if Path(path).exists():
            try:
                return playwright.chromium.launch(executable_path=path, args=FLAGS)
            except Error as problem:
                print(f"{path} does not start: {problem.message.splitlines()[0]}", file=sys.stderr)  # noqa: T201
    return None


def main() -> None:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        if browser is None:
            sys.exit("There is no Chromium that starts.")
        print(f"Chromium {browser.version}")  # noqa: T201
        browser.close()


if __name__ == "__main__":
    main()
