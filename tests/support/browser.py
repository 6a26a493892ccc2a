"""A visitor of the demo's page: Chromium, driven by Playwright."""

import os
import re
import runpy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect, sync_playwright

ROOT = Path(__file__).parents[2]
SECONDS = 300
"""For one answer, on a loaded machine."""
BRUSH = (255, 51, 51)
"""Colour of the strokes in the editor of masks."""
GRAPHICS = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""Chromium's renderer without a graphics card: the editor of masks draws with WebGL."""


@contextmanager
def open_page(url: str) -> Iterator["Visitor"]:
    """The demo's page in a browser; the test fails if there is none."""
    path = runpy.run_path(str(ROOT / "build" / "browser.py"))["find"]()
    if path is None:
        pytest.fail("no browser: python build/browser.py fetches one; or name a Chromium in DIOSCURI_BROWSER")
    libraries = path.parent / "lib"  # of a browser that was fetched
    more = {"LD_LIBRARY_PATH": str(libraries)} if libraries.is_dir() and path.parent.name == "browser" else {}
    with sync_playwright() as playwright:
        environment: Any = {**os.environ, **more}
        browser = playwright.chromium.launch(
            executable_path=path, args=list(GRAPHICS), env=environment, timeout=1000 * SECONDS
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(1000 * SECONDS)
        visitor = Visitor(page)
        page.goto(url)
        yield visitor
        browser.close()


class Visitor:
    """What a visitor does on the page, and sees."""

    def __init__(self, page: Page) -> None:
        self.page, self.hosts = page, set[str]()
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def open_tab(self, name: str) -> None:
        """Open a tab by its title."""
        self.page.get_by_role("tab", name=name, exact=True).click()

    def press(self, name: str) -> None:
        """Press a button once no call runs: until then the page may ignore it."""
        self.sees_progress(False)
        self.page.get_by_role("button", name=name, exact=True).click()

    def cancel(self) -> None:
        """End the call that runs."""
        self.page.get_by_role("button", name="Cancel", exact=True).click()

    def type_in(self, label: str, value: object) -> None:
        """Type into a field."""
        self.page.get_by_label(label, exact=True).locator("visible=true").first.fill(str(value))

    def delay(self, address: str, seconds: float) -> None:
        """Hold every request to this address back."""

        def hold(route: Route) -> None:
            self.page.wait_for_timeout(1000 * seconds)
            route.continue_()

        self.page.route(address, hold)

    def upload(self, name: str, path: Path) -> None:
        """Press an upload's button and choose a file."""
        with self.page.expect_file_chooser() as chooser:
            self.press(name)
        chooser.value.set_files(path)

    def picture(self, label: str, unlike: str = "") -> tuple[np.ndarray, str]:
        """The picture with this label, uint8 (height, width, channels), once it is there, and its address;
        another one than at `unlike`."""
        image = self.page.locator(f'img[alt="{label}"]').locator("visible=true").first
        if unlike:
            expect(image).not_to_have_attribute("src", unlike, timeout=1000 * SECONDS)
        expect(image).to_be_visible(timeout=1000 * SECONDS)
        source = str(image.get_attribute("src"))
        content = self.page.request.get(source).body()
        with Image.open(BytesIO(content)) as opened:
            return np.asarray(opened.convert("RGB")), source

    def text(self, label: str, contains: str) -> str:
        """The text in a field, once it contains this."""
        field = self.page.get_by_label(label, exact=True).locator("visible=true").first
        expect(field).to_have_value(re.compile(re.escape(contains)), timeout=1000 * SECONDS)
        return str(field.input_value())

    def sees(self, text: str) -> None:
        """Wait for a message."""
        expect(self.page.get_by_text(text).first).to_be_visible(timeout=1000 * SECONDS)

    def sees_progress(self, running: bool = True) -> None:
        """Wait until a call runs, or until none does."""
        progress = self.page.locator(".progress-text").locator("visible=true")
        if running:
            expect(progress.first).to_be_visible(timeout=1000 * SECONDS)
        else:
            expect(progress).to_have_count(0, timeout=1000 * SECONDS)

    def draw(self) -> None:
        """Paint the left half of the picture in the editor with broad strokes, once it is there."""
        canvas = self.page.locator("canvas:visible").first
        expect(canvas).to_be_visible(timeout=1000 * SECONDS)
        box: Any = canvas.bounding_box()
        self._wait_until(lambda: np.median(self._pixels(box)) < 255, "picture in the white editor")
        mouse, middle = self.page.mouse, (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for across in (-80, -50, -20):
            mouse.move(middle[0] + across, middle[1] - 80)
            mouse.down()
            mouse.move(middle[0] + across, middle[1] + 80, steps=8)
            mouse.up()
        self._wait_until(lambda: (self._pixels(box) == BRUSH).all(-1).mean() > 0.1, "strokes in the editor")

    def _pixels(self, box: Any) -> np.ndarray:
        """The middle of a part of the page once it stays the same, uint8 (height, width, 3)."""
        corner = {"x": box["x"] + box["width"] / 4, "y": box["y"] + box["height"] / 4}
        clip: Any = {**corner, "width": box["width"] / 2, "height": box["height"] / 2}
        shot, before = self.page.screenshot(clip=clip), b""
        while shot != before:
            shot, before = self.page.screenshot(clip=clip), shot
        with Image.open(BytesIO(shot)) as opened:
            return np.asarray(opened.convert("RGB"))

    def _wait_until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"no {what}"
            self.page.wait_for_timeout(100)
