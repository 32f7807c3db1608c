"""What every test runs in: no network, and fixtures."""

import contextlib
import functools
import http.server
import os
import signal
import subprocess
import threading
from pathlib import Path

# A script that trains would set it; and two processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MXNET_CPU_WORKER_NTHREADS", "2")  # for streams that run at once

import pytest
from helpers import NO_NETWORK, PETS, TinyNetwork, encode, paint, run_main, write_folder
from mxboard import SummaryWriter

import common.datasets

# A shell's background jobs ignore Ctrl-C, and so would every script that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Seventy thousand digits take seconds, and many tests train on the same ones.
common.datasets.draw_mnist = functools.lru_cache(common.datasets.draw_mnist)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    for name, value in NO_NETWORK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MXBOARD_DEMO_MIRROR", raising=False)


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Run a script's main from `tmp_path`; return what it printed, on both streams."""

    def call(script, *args):
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        run_main(script, *args)
        return capsys.readouterr()

    return call


@pytest.fixture
def sw(tmp_path):
    with SummaryWriter(tmp_path) as sw:
        yield sw


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


@pytest.fixture
def unprivileged():
    """Return what to put before a command so that permissions count, which root ignores."""
    if os.geteuid():
        return []
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


class RecordingHandler(http.server.SimpleHTTPRequestHandler):
    def log_request(self, *args):
        self.server.got.append(self.path)

    def log_error(self, *args):
        pass


@pytest.fixture
def http_folder():
    """Serve folders on the loopback; call with one for its address and the paths it was asked."""
    with contextlib.ExitStack() as stack:

        def serve(folder, handler=RecordingHandler):
            handler = functools.partial(handler, directory=str(folder))
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            server.got = []
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}", server.got

        yield serve


@pytest.fixture(scope="session")
def tiny():
    return TinyNetwork()


@pytest.fixture
def place(tiny, tmp_path):
    """Make a folder with a checkpoint, good/tiny, and 13 pictures of three pets."""
    TinyNetwork(seed=3).save(tmp_path / "good", 9)
    tiny.save(tmp_path / "good", 12)
    write_folder(tmp_path / "pets", map(encode, paint(13)), PETS)
    return tmp_path
