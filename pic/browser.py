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

from playwright.sync_api import expect, sync_playwright

from common.errors import ScriptError

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_ARGS = ["--no-sandbox", "--no-proxy-server", "--disable-background-networking"]
# SwiftShader draws the projector's WebGL where there is no GPU, as in a container.
SWIFTSHADER = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
# TensorBoard's pages come late on a busy machine.
expect.set_options(timeout=30_000)


def find_chromium():
    """Return the path of Chromium or Chrome; None if neither is on PATH."""
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
    """Serve a log with TensorBoard until the block ends; yield its address, with a slash."""
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
    """Open an empty page, its screenshots of `scale` pixels per CSS pixel, until the block ends."""
    size = {"width": width, "height": height}
    options = {"executable_path": chromium, "args": CHROMIUM_ARGS + SWIFTSHADER}
    with sync_playwright() as playwright, playwright.chromium.launch(**options) as browser:
        yield browser.new_page(viewport=size, device_scale_factor=scale)


def show(page, url, tab, tags=""):
    """Open a tab of TensorBoard afresh; return its first pane of tags that match a pattern."""
    page.goto("about:blank")
    page.goto(f"{url}?tagFilter={quote(tags)}#{tab}&tagFilter={quote(tags)}")
    return page.locator("tf-category-paginated-view").first


def open_projector(page, url):
    """Open the projector afresh; return its frame. The codes may still be on their way."""
    show(page, url, "projector")
    return page.frame_locator("iframe").frame_locator("iframe")


def color_by(projector, column):
    """Choose a column of labels to color the points by."""
    projector.locator("#colorby").click()
    projector.locator("#colorby paper-item", has_text=column).first.click()
