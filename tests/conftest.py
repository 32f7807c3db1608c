"""What the tests share: real processes, TensorBoard's own reader, the real data if present."""

import functools
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import common  # noqa: F401 (before mxnet, for every test)

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parent.parent
# Every point of every series, not TensorBoard's sample of them.
EVERYTHING = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0, "graph": 0}
# A port nobody listens on: public addresses cannot be reached, those on this machine can.
NO_NETWORK = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}


def script_env(**variables):
    env = {**os.environ, **NO_NETWORK, "NO_PROXY": "127.0.0.1,localhost", **variables}
    return {name: value for name, value in env.items() if value is not None}


def run_script(script, *args, env=None, timeout=240, **options):
    """Run a script to its end, without a public network."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=script_env(**(env or {})),
        **options,
    )


def read_log(logdir):
    log = EventAccumulator(str(logdir), EVERYTHING)
    log.Reload()
    return log


def read_text(log, tag):
    (event,) = log.Tensors(tag)
    return event.tensor_proto.string_val[0].decode()


def decode(image):
    """Decode a logged picture to (H, W, 3) uint8 RGB."""
    pixels = np.frombuffer(image.encoded_image_string, np.uint8)
    return cv2.imdecode(pixels, cv2.IMREAD_COLOR)[:, :, ::-1]


def assert_one_line_error(result, status, *words):
    assert result.returncode == status, result.stderr
    lines = result.stderr.strip().splitlines()
    errors = [line for line in lines if "error: " in line]
    assert len(errors) == 1 and lines[-1] == errors[0], result.stderr
    assert "Traceback" not in result.stderr and "usage:" not in result.stderr
    for word in words:
        assert word in errors[0]


@pytest.fixture(scope="session")
def real():
    folder = os.environ.get("MXBOARD_DEMO_REAL")
    if not folder:
        pytest.skip("needs real data: set MXBOARD_DEMO_REAL to its folder")
    return Path(folder).resolve()


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system with room for 64 KiB."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        self.server.requests.append((self.command, self.path))


@pytest.fixture
def http_folder():
    """Serve folders on the loopback; call with one for its address and the requests it gets."""
    servers = []

    def serve(folder, handler=_Handler):
        handler = functools.partial(handler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.requests = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", server.requests

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
