"""Pictures of a run's page: `python tests/report/screenshots.py RUN OUT`.

Writes into the folder OUT, each light and dark: report (the head and the results), figures (from
harmless against helpful Elo on) and view (a principle under edit in `cai view`). Needs what `make
test-browser` installs.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chromium import launch
from playwright.sync_api import Page, sync_playwright

SCHEMES = ("light", "dark")


def main(run: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    disk = (run / "report.html").resolve().as_uri()
    with sync_playwright() as playwright, served(run) as link:
        browser = launch(playwright)
        if browser is None:
            sys.exit("There is no Chromium: `make test-browser` installs one.")
        for scheme in SCHEMES:
            page = browser.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 1150})
            page.set_default_timeout(120_000)
            page.goto(disk)
            page.locator("#browser").wait_for()
            page.screenshot(path=out / f"report-{scheme}.png")
            page.evaluate("document.querySelector('nav').hidden = true")
            page.get_by_role("heading", name="Harmless and helpful").evaluate(
                "(node) => window.scrollTo(0, node.getBoundingClientRect().top + scrollY - 24)"
            )
            page.screenshot(path=out / f"figures-{scheme}.png")
            page.goto(link)
            under_edit(page)
            page.set_viewport_size({"width": 1200, "height": 1000})
            page.evaluate("document.getElementById('try').scrollIntoView()")
            page.screenshot(path=out / f"view-{scheme}.png")
            page.close()
        browser.close()


def under_edit(page: Page) -> None:
    """Turn the principle of the playground about theft into one about fraud."""
    page.locator("#try-rounds").select_option("1")
    page.locator("#try-principle").select_option("theft")
    page.locator("#try-trials article").first.get_by_role("button", name="Remove").click()
    page.locator("#try-status").get_by_text("Done in").wait_for()
    for half in ("critique", "revision", "comparison"):
        field = page.locator(f"#try-{half}")
        field.fill(field.input_value().replace("theft", "fraud"))
    page.locator("#try-trials .before").wait_for()
    page.locator("#try-status").get_by_text("Done in").wait_for()
    page.locator("#try-comparison").blur()


@contextmanager
def served(run: Path) -> Iterator[str]:
    """Serve the run's page with `cai view`."""
    command = [sys.executable, "-m", "cai", "view", str(run), "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
