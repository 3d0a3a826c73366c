"""The pages in a real browser, as a person uses them: both languages, desk and phone, mouse and keyboard.

Screenshots of every page are kept in build/web-pages.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, BrowserContext, ViewportSize, sync_playwright
from playwright.sync_api import Page as Tab

from tests.servers.daemon import Site, backup_settings, wait_for
from tests.servers.tools import PROJECT, find_tool
from tests.servers.web import ADMIN, PASSWORD, Page, make_slice

pytestmark = pytest.mark.servers

SCREENS: Final = PROJECT / "build" / "web-pages"
AXE: Final = PROJECT / ".tools" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
ALL: Final = bool(os.environ.get("NANUMPAY_TEST_ALL_LOOKS"))
PAGES: Final = ("", "backups", "run", "recover", "settings", "jobs", "events", "events?what=audit", "health")
MORE: Final = ("backups/{backup}", "backups/{files}/files", "run/{run}", "recover/swaps", "nothing-here", "sign-in")
SIZES: Final[dict[str, ViewportSize]] = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 360, "height": 740}}


@pytest.fixture(scope="module")
def page(web_page: Page) -> Page:
    """The shared page, of which every second since the last full can be restored."""
    make_slice(web_page.site)
    return web_page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run Chromium for the whole module."""
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=str(find_tool("chromium")), args=["--no-sandbox"])
        yield found
        found.close()


class Person:
    """Somebody at a browser, signed in; whatever the browser complains about is kept."""

    def __init__(self, page: Page, context: BrowserContext) -> None:
        self.page = page
        self.tab: Tab = context.new_page()
        self.complaints: list[str] = []
        self.tab.on("console", self._listen)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _listen(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def open(self, path: str) -> None:
        """Go to a page."""
        self.tab.goto(f"{self.page.origin}/{path}")

    def sign_in(self) -> None:
        """Sign in, by keyboard alone."""
        self.open("jobs")
        self.tab.wait_for_function("document.activeElement.name === 'name'")
        self.tab.keyboard.type(ADMIN)
        self.tab.keyboard.press("Tab")
        self.tab.keyboard.type(PASSWORD)
        self.tab.keyboard.press("Enter")
        self.tab.wait_for_selector("nav.side")


@pytest.fixture(scope="module")
def known(page: Page, browser: Browser) -> Any:
    """What a browser keeps of somebody who has signed in."""
    context = browser.new_context(locale="en-GB")
    somebody = Person(page, context)
    somebody.sign_in()
    assert somebody.tab.url.endswith("/jobs"), "one comes to where one wanted to"
    assert somebody.complaints == []
    kept = context.storage_state()
    context.close()
    return kept


@pytest.fixture
def somebody(page: Page, browser: Browser, known: Any) -> Iterator[Person]:
    """Somebody at a desk who reads English, signed in; nothing of what they did may have displeased the browser."""
    context = browser.new_context(viewport=SIZES["desk"], locale="en-GB", storage_state=known)
    found = Person(page, context)
    yield found
    context.close()
    assert found.complaints == []


def looks() -> list[tuple[str, str, str, tuple[int, ...]]]:
    """Return languages, sizes and themes, each with the pages to look at: every page once, with ALL in all of them."""
    number = len(PAGES) + len(MORE)
    if ALL:
        every = itertools.product(("ko", "en"), SIZES, ("light", "dark"))
        return [(*look, tuple(range(number))) for look in every]
    few = [("ko", "phone", "light"), ("en", "desk", "light"), ("ko", "desk", "dark"), ("en", "phone", "dark")]
    return [(*look, tuple(range(at, number, len(few)))) for at, look in enumerate(few)]


@pytest.mark.parametrize(
    "language,size,theme,pages", looks(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_page_can_be_read_and_reached(
    page: Page, browser: Browser, known: Any, language: str, size: str, theme: Any, pages: tuple[int, ...]
) -> None:
    """No page is wider than the screen, breaks its own policy, or has a serious fault for people with a disability."""
    SCREENS.mkdir(parents=True, exist_ok=True)
    context = browser.new_context(
        viewport=SIZES[size],
        locale={"ko": "ko-KR", "en": "en-GB"}[language],
        color_scheme=theme,
        storage_state=known,
    )
    somebody = Person(page, context)
    tab = somebody.tab
    backup, files = (
        next(one["id"] for one in page.site.list_backups() if one["job"] == job) for job in ("nanumpay", "photos")
    )
    names = {"backup": backup, "files": files, "run": page.site.runs()[0]["id"]}
    paths = [(path, path.format(**names)) for path in (*PAGES, *MORE)]
    for kind, path in (paths[at] for at in pages):
        if path == "sign-in":
            context.clear_cookies()
        somebody.open(path)
        assert tab.get_attribute("html", "lang") == language
        name = re.sub(r"[^a-z]+", "-", kind.replace("{", "of-")).strip("-") or "overview"
        tab.screenshot(path=SCREENS / f"{name}-{language}-{size}-{theme}.png", full_page=True)
        assert tab.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, path
        tab.evaluate(AXE.read_text(encoding="utf-8"))
        found = tab.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            (one["id"], one["impact"], [node["html"][:150] for node in one["nodes"][:3]])
            for one in found["violations"]
            if one["impact"] in {"serious", "critical"}
        ]
        assert serious == [], f"{path}: {json.dumps(serious, indent=1)}"
    # What there is not is told by the browser as well.
    assert [one for one in somebody.complaints if "404" not in one] == []
    context.close()


def test_a_run_is_watched_and_cancelled(page: Page, somebody: Person) -> None:
    """One click begins it; it is there as it goes, on the overview too, and can be stopped."""
    site = page.site
    other = Person(page, somebody.tab.context)
    somebody.open("")
    other.open("")
    wait_for(lambda: not site.job()["running"], "the job to be free")
    site.hold("nanumpay_backupd.pipeline.proving:prove")
    somebody.tab.click("section.job form button")
    site.wait_held()
    somebody.tab.wait_for_selector("[data-watch]")
    other.tab.wait_for_selector("#live .going, section.job button[disabled]", timeout=20_000)
    somebody.tab.click("button.danger")
    somebody.tab.wait_for_selector("[data-watch]")
    site.release()
    somebody.tab.wait_for_selector(".page-head .b-off", timeout=30_000)
    assert site.runs()[0]["outcome"] == "cancelled"
    assert other.complaints == []


def test_settings_show_what_they_mean_before_they_are_saved(page: Page, somebody: Person) -> None:
    """What belongs to the choice is shown, the next runs follow the form, a place is tried, saving is in force."""
    tab = somebody.tab
    somebody.open("settings")
    before = tab.inner_text("#preview")
    assert not tab.is_visible("select[name=dayOfMonth]")
    tab.click("text=Monthly")
    assert tab.is_visible("select[name=dayOfMonth]")
    tab.select_option("select[name=dayOfMonth]", "31")
    tab.fill("input[name=time]", "23:45")
    tab.wait_for_function(
        "before => document.querySelectorAll('#preview li').length === 5 && "
        "document.getElementById('preview').innerText !== before && "
        "document.getElementById('preview').innerText.includes('23:45')",
        arg=before,
    )
    tab.fill("input[name='storage.ftp.host']", "127.0.0.1")
    tab.fill("input[name='storage.ftp.port']", "1")
    tab.click("#test")
    tab.wait_for_selector("#tested .b-bad", timeout=30_000)
    tab.fill("input[name='storage.ftp.host']", "")
    tab.fill("input[name='storage.ftp.port']", "21")
    tab.click("button.primary")
    tab.wait_for_selector(".n-good")
    wait_for(lambda: page.site.job()["schedule"] == ["45 23 L * *"], "the settings in force")
    page.site.save(backup_settings())
    wait_for(lambda: page.site.job()["schedule"] == ["0 2 * * *"], "the settings as they were")


def test_a_moment_is_chosen_shown_and_restored(page: Page, somebody: Person) -> None:
    """A click on the timeline fills the moment in; the plan is shown; with the password it is done, and watched."""
    tab = somebody.tab
    target = f"{page.site.database}_seen"
    somebody.open("recover?job=nanumpay")
    box = tab.locator("[data-band]").bounding_box()
    assert box is not None
    tab.mouse.click(box["x"] + box["width"] - 3, box["y"] + 20)
    assert tab.is_checked("input[name=when][value=moment]")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", tab.input_value("input[name=at]"))
    tab.fill("input[name=to]", target)
    tab.click("form.recover button.primary")
    tab.wait_for_selector("form.confirm")
    assert target in tab.inner_text("main")
    assert tab.locator("input[name=typed]").count() == 0, "nothing is there that could be replaced"
    tab.fill("input[name=password]", PASSWORD)
    tab.click("form.confirm button")
    tab.wait_for_selector(".page-head .b-good", timeout=60_000)
    client = page.site.server.client()
    try:
        assert client[target].users.count_documents({}) == client[page.site.database].users.count_documents({})
    finally:
        client.drop_database(target)
        client.close()


def test_the_timeline_by_keyboard(page: Page, somebody: Person) -> None:
    """It is a slider of one stop: ends, steps and seconds; what it says is what the field has, and never a gap."""
    tab = somebody.tab
    somebody.open("recover?job=nanumpay&span=1h")
    slider = tab.locator("[role=slider]")
    slider.focus()
    assert slider.locator("a").count() == 0
    found = {}
    for key in ("Home", "End", "Shift+ArrowLeft", "Shift+ArrowRight", "ArrowLeft", "PageUp"):
        tab.keyboard.press(key)
        found[key] = tab.input_value("input[name=at]")
        assert slider.get_attribute("aria-valuetext") == found[key].replace("T", " ")
    ranges = page.site.call("Timeline", job="nanumpay")["ranges"]
    for told in found.values():
        assert any(one["first"][:19] <= told <= one["last"][:19] for one in ranges), told
    assert found["Home"] <= found["Shift+ArrowLeft"] < found["End"] == found["Shift+ArrowRight"]
    tab.click("[data-band] .full >> nth=-1")
    assert tab.is_checked("input[name=when][value=backup]")
    assert tab.input_value("select[name=backup]") in {one["id"] for one in page.site.list_backups()}


def test_the_doctor_tells_as_it_goes(page: Page, somebody: Person) -> None:
    """Findings come while it is at work, the end is told in a line, and commands can be copied."""
    tab = somebody.tab
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    somebody.open("health")
    tab.click("[data-doctor] button")
    tab.wait_for_selector("[data-findings] .finding")
    tab.wait_for_selector("[data-findings] > .note", timeout=60_000)
    assert tab.locator("[data-findings] .finding").count() == len(page.site.call("Doctor")["checks"])
    assert tab.is_enabled("[data-doctor] button")
    if tab.locator(".command").count():
        command = tab.locator(".command").first
        command.locator("button").click()
        assert tab.evaluate("navigator.clipboard.readText()") == command.locator("code").inner_text()


def test_backups_are_found_downloaded_and_deleted(page: Page, somebody: Person, tmp_path: Path) -> None:
    """By their job; a download is the very file; deleting takes the name and the password."""
    site: Site = page.site
    tab = somebody.tab
    wait_for(lambda: not site.job()["running"], "the job to be free")
    site.run()
    newest, *_, oldest = [one for one in site.list_backups() if one["job"] == "nanumpay"]
    somebody.open("backups")
    tab.select_option("select[name=job]", "photos")
    tab.click("form.filter button")
    assert tab.locator("tbody tr").count() == sum(one["job"] == "photos" for one in site.list_backups())
    somebody.open(f"backups/{newest['id']}")
    with tab.expect_download() as saved:
        tab.locator("a[download]").first.click()
    saved.value.save_as(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == (site.backups / newest["artifact"]).read_bytes()
    somebody.open(f"backups/{oldest['id']}")
    tab.click("summary:has-text('Open to delete')")
    tab.fill("input[name=typed]", oldest["id"])
    tab.fill("form[action$='/delete'] input[name=password]", PASSWORD)
    tab.click("form[action$='/delete'] button")
    tab.wait_for_selector("form.filter")
    assert oldest["id"] not in [one["id"] for one in site.list_backups()]


def test_a_page_heals_when_the_daemon_is_back(page: Page, somebody: Person) -> None:
    """While it is down the page says so; it comes back by itself, to what was asked for."""
    tab = somebody.tab
    page.site.stop()
    try:
        somebody.open("jobs")
        tab.wait_for_selector("[data-heal]")
    finally:
        page.site.start()
    tab.wait_for_selector("nav.side a[aria-current][href$='/jobs']", timeout=30_000)
    tab.wait_for_selector("section.card h2", timeout=30_000)
    somebody.complaints.clear()  # what the browser says of 503


def test_everything_is_reached_by_keyboard(page: Page, somebody: Person) -> None:
    """The first stop leads past the menu; each stop can be seen."""
    tab = somebody.tab
    somebody.open("settings")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    seen = set()
    for _ in range(40):
        tab.keyboard.press("Tab")
        seen.add(tab.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
        if tab.evaluate("document.activeElement === document.body"):
            break  # once around
        style = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style != "none", tab.evaluate("document.activeElement.outerHTML")
    assert {"enabled", "frequency", "time", "retention.count", "storage.type"} <= seen


def test_the_programs_for_these_tests_are_there() -> None:
    """`make tools` has fetched them."""
    assert AXE.is_file()
    assert shutil.which("chromium")
