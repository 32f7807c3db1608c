"""A real TensorBoard and a real Chromium, for the pictures and for the tests."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

from common.errors import ScriptError

from playwright.sync_api import expect, sync_playwright

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
# TensorBoard's pages come late on a busy machine.
expect.set_options(timeout=30_000)

# SwiftShader draws the projector's WebGL where there is no GPU, as in a container.
CHROMIUM_ARGS = (
    "--no-sandbox",
    "--no-proxy-server",
    "--disable-background-networking",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)


def find_chromium():
    """Find a browser to drive.

    Returns
    -------
    str or None
        Path of Chromium or Chrome; None if neither is on ``PATH``.
    """
    return next(filter(None, map(shutil.which, CHROMIUMS)), None)


def ask(url, path):
    """Return what a served TensorBoard answers, as bytes."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(f"{url}data/{path}", timeout=30).read()


def _wait_until_read(url, logdir):
    """Wait until TensorBoard, which reads in the background, knows all runs and all tags."""
    runs = len({path.parent for path in Path(logdir).rglob("*tfevents*")})
    before, known = None, b""
    while before != known or len(json.loads(ask(url, "runs"))) < runs:
        time.sleep(0.5)
        before, known = known, ask(url, "plugin/timeseries/tags")


@contextlib.contextmanager
def serve(logdir, *flags):
    """Serve a log with TensorBoard, on a free port of the loopback, until the block ends.

    Parameters
    ----------
    logdir : str or pathlib.Path
        The log; all that is in it has been read when the block begins.
    *flags : str
        More of TensorBoard's flags.

    Yields
    ------
    str
        TensorBoard's address, with a slash at its end.

    Raises
    ------
    ScriptError
        TensorBoard does not start.
    """
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir)]
    command += ["--host", "127.0.0.1", "--port", "0", *flags]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if address := re.search(r"http://127\.0\.0\.1:\d+/", line):
                break
        else:
            raise ScriptError(f"TensorBoard does not start: {''.join(lines[-1:]).strip()}")
        # A full pipe would stop it.
        threading.Thread(target=server.stderr.read, daemon=True).start()
        _wait_until_read(address[0], logdir)
        yield address[0]
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def open_page(chromium, width=1280, height=900, scale=1):
    """Open an empty page in a headless browser, until the block ends.

    Parameters
    ----------
    chromium : str
        Path of the browser.
    width, height : int
        Size of the page, in CSS pixels.
    scale : float
        Pixels of a screenshot for each CSS pixel.

    Yields
    ------
    playwright.sync_api.Page
        The page.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        try:
            yield browser.new_page(
                viewport={"width": width, "height": height}, device_scale_factor=scale
            )
        finally:
            browser.close()


def show(page, url, tab, tags=""):
    """Open a tab of TensorBoard afresh.

    Parameters
    ----------
    page : playwright.sync_api.Page
        The page.
    url : str
        TensorBoard's address.
    tab : str
        "timeseries", "images", "graphs", "histograms", "text" or "projector".
    tags : str
        Pattern of the tags to show; all of them if it is empty.

    Returns
    -------
    playwright.sync_api.Locator
        The page's first pane, where Images, Histograms and Text show the tags that match.
    """
    page.goto("about:blank")
    page.goto(f"{url}?tagFilter={quote(tags)}#{tab}&tagFilter={quote(tags)}")
    return page.locator("tf-category-paginated-view").first


def open_projector(page, url):
    """Open the projector afresh.

    Parameters
    ----------
    page : playwright.sync_api.Page
        The page.
    url : str
        TensorBoard's address.

    Returns
    -------
    playwright.sync_api.FrameLocator
        The frame it is in; the codes may still be on their way.
    """
    show(page, url, "projector")
    return page.frame_locator("iframe").frame_locator("iframe")


def color_by(projector, column):
    """Choose a column of labels to color the points by."""
    projector.locator("#colorby").click()
    projector.locator("#colorby paper-item", has_text=column).first.click()
