"""What holds for every test: no network, few threads, and helpers importable from tests/."""

import os
import sys
import threading
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parent))

import pytest  # noqa: E402 (after the environment is set)
from hypothesis import settings  # noqa: E402

settings.register_profile("cai", deadline=None)  # a busy machine is no failure
settings.load_profile("cai")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Measure no coverage in tests marked `untraced`, nor in the fixtures that they are first with.

    The mark is on long tests of lines that others cover: tracing makes them half as slow again.
    pytest-cov's own mark leaves out fixtures, and does nothing in the workers of pytest-xdist.
    """
    if item.get_closest_marker("untraced") is None:
        return (yield)
    tracers = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracers[0])
        threading.settrace(tracers[1])


@pytest.fixture(autouse=True)
def _forget_servers():
    """Forget what was learnt of servers: another test's may get the same port."""
    if module := sys.modules.get("cai.engines.request_body"):
        module.REMEMBERED.clear()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return a function from a family to the folder of its tiny model, made once."""
    from tiny_models import make_tiny_model

    folders = {}

    def folder(family):
        if family not in folders:
            folders[family] = make_tiny_model(family, tmp_path_factory.mktemp(family))
        return folders[family]

    return folder


@pytest.fixture(scope="session")
def tiny_settings(tiny):
    """Return a function from a family to the settings of its tiny model."""
    from cai.settings import ModelSettings

    def settings(family, **more):
        kind = "transcript" if family == "gpt2" else "chat"
        # In bfloat16, as a GPU has it by default, nothing agrees with a reference to 1e-4.
        return ModelSettings(
            **{"path": str(tiny(family)), "format": kind, "dtype": "float32", **more}
        )

    return settings


@pytest.fixture(scope="session")
def chromium():
    """Return headless Chromium; where it is missing the test is skipped, or fails if required."""
    hint = "`make test-browser` installs what is missing"
    needed = os.environ.get("CAI_BROWSER_TESTS") == "required"
    try:
        from playwright.sync_api import sync_playwright
        from report.chromium import launch
    except ModuleNotFoundError as missing:
        if needed:
            raise
        pytest.skip(f"{missing.name} is not installed: {hint}")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        if browser is None:
            assert not needed, f"there is no Chromium: {hint}"
            pytest.skip(f"there is no Chromium: {hint}")
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Return a function that opens a page of a run, from disk or from its server.

    The test fails on errors, dialogs, and requests to anywhere else.
    """
    contexts, troubles = [], []

    def opened(where: Path | str, fragment: str = "", script: str = "", **context):
        link = where.as_uri() if isinstance(where, Path) else where
        contexts.append(chromium.new_context(**context))
        page = contexts[-1].new_page()
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith(link) or troubles.append(request.url),
        )
        page.set_default_timeout(60_000)  # A busy machine is slow, not wrong.
        page.add_init_script(script)
        page.goto(link + fragment)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def barriers():
    """Return a function that tells what axe finds in a page; empty if nothing."""
    from axe_playwright_python.sync_playwright import Axe

    def found(page) -> str:
        results = Axe().run(page)
        return results.generate_report() if results.violations_count else ""

    return found


@pytest.fixture
def chosen(device, monkeypatch):
    """Return the device of a test `ON_EACH_DEVICE`; what chooses a device by itself takes it."""
    import torch

    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return torch.device(device)
