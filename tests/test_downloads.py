import gzip
import hashlib
import http.server
import os
import random
import socket
import threading

from mxcompat import downloads
from mxcompat.downloads import FILES, DamagedError, File, Files, UnavailableError

import pytest
from helpers import contents

CONTENT = gzip.compress(random.Random(0).randbytes(200_000), mtime=0)
FLIPPED = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
NAME = "file.gz"
NOWHERE = "http://127.0.0.1:9"

pytestmark = pytest.mark.filterwarnings("ignore:fetching")


@pytest.fixture
def mirrors(monkeypatch):
    """Put a file with the given mirrors into the table."""

    def add(*mirrors, name=NAME):
        digest = hashlib.sha256(CONTENT).hexdigest()
        monkeypatch.setitem(FILES, name, File("the tests", mirrors, len(CONTENT), digest))

    return add


@pytest.fixture
def serve(tmp_path, http_folder):
    """Serve the file with some content, or nothing; return the address and what was asked for."""

    def serve(content=CONTENT):
        folder = tmp_path / f"mirror{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        if content:
            (folder / NAME).write_bytes(content)
        return http_folder(folder)

    return serve


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def fetch(data, *names, **options):
    return Files(data, **options).fetch(*(names or [NAME]))


@pytest.mark.filterwarnings("default:fetching")
def test_file_is_fetched_once_and_kept_under_its_name(mirrors, serve, data):
    url, asked = serve()
    mirrors(url)
    with pytest.warns(UserWarning) as told:
        assert fetch(data) == fetch(data) == [data / NAME]
    assert contents(data) == {NAME: CONTENT} and asked == [f"/{NAME}"]
    assert [str(each.message) for each in told] == [f"fetching 0.2 MB to {data}: the tests"]


def test_own_mirror_is_tried_first_and_the_others_in_order(mirrors, serve, data, monkeypatch):
    servers = [serve(content=None), serve(), serve()]
    (own, _), (full, _), (last, _) = servers
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", own + "/folder/")
    mirrors(NOWHERE, full, last)
    fetch(data)
    assert contents(data) == {NAME: CONTENT}
    assert [asked for _, asked in servers] == [[f"/folder/{NAME}"], [f"/{NAME}"], []]


def test_file_that_no_mirror_has_is_named_with_each_reason_once_and_the_others_are_fetched(
    mirrors, serve, data
):
    url, _ = serve()
    mirrors(url)
    mirrors(NOWHERE, f"{NOWHERE}/other", url, name="absent")
    reasons = r"127.0.0.1:9, 127.0.0.1:9: no connection; 127.0.0.1:\d+: HTTP 404"
    with pytest.raises(UnavailableError, match=rf"^no absent in {data} \({reasons}\)$"):
        fetch(data, "absent", NAME)
    assert contents(data) == {NAME: CONTENT}


def test_offline_asks_nobody(mirrors, serve, data):
    url, asked = serve()
    mirrors(url)
    with pytest.raises(UnavailableError, match=rf"no {NAME} in .*\(--offline\)"):
        fetch(data / "new", offline=True)
    assert asked == [] and contents(data) == {}


@pytest.mark.parametrize("content", [CONTENT[:-1], FLIPPED])
def test_damaged_file_is_reported_and_replaced_or_stays_if_it_cannot_be(
    content, mirrors, serve, data
):
    (data / NAME).write_bytes(content)
    mirrors(NOWHERE)
    for offline in (False, True):
        with pytest.raises(DamagedError, match=f"{NAME} is damaged and cannot be fetched again"):
            fetch(data, offline=offline)
    assert contents(data) == {NAME: content}
    mirrors(serve()[0])
    with pytest.warns(UserWarning, match=f"{data / NAME} was damaged .* has been replaced"):
        fetch(data)
    assert contents(data) == {NAME: CONTENT}


class HalfHandler(http.server.BaseHTTPRequestHandler):
    """Promises a whole file and hangs up after half of it."""

    status, header, value = 200, "Content-Length", str(len(CONTENT))
    content = CONTENT[: len(CONTENT) // 2]

    def __init__(self, *args, directory):
        super().__init__(*args)

    def log_message(self, *args):
        pass

    def do_GET(self):  # noqa: N802
        self.send_response(self.status)
        self.send_header(self.header, self.value)
        self.end_headers()
        self.wfile.write(self.content)


class LoopHandler(HalfHandler):
    """Sends whoever asks back to the same place."""

    status, header, value, content = 302, "Location", f"/{NAME}", b""


class WrongHandler(HalfHandler):
    """Sends a file of the right size."""

    content = FLIPPED


@pytest.mark.parametrize(
    ("handler", "error", "reason"),
    [
        (HalfHandler, UnavailableError, "no connection"),
        (LoopHandler, UnavailableError, "redirects without end"),
        (WrongHandler, DamagedError, f"^{NAME} is damaged on the mirrors.*wrong sha256"),
    ],
)
def test_mirror_that_fails_leaves_nothing_and_the_next_is_tried(
    handler, error, reason, mirrors, serve, http_folder, data
):
    bad, _ = http_folder("", handler)
    mirrors(bad)
    with pytest.raises(error, match=reason):
        fetch(data)
    assert contents(data) == {}
    mirrors(bad, serve()[0])
    fetch(data)
    assert contents(data) == {NAME: CONTENT}


class PackedHandler(HalfHandler):
    """Sends a .gz as a packed answer to whoever would unpack it."""

    header, content = "Content-Encoding", CONTENT

    @property
    def value(self):
        return "gzip" if "gzip" in self.headers["Accept-Encoding"] else "identity"


def test_file_is_not_unpacked_on_its_way(mirrors, http_folder, data):
    mirrors(http_folder("", PackedHandler)[0])
    fetch(data)
    assert contents(data) == {NAME: CONTENT}


@pytest.mark.parametrize(
    "own", ["http://user:secret@127.0.0.1:9/x", "user:secret@127.0.0.1:9", "ftp://user:secret@host"]
)
def test_password_of_a_mirror_is_not_told(own, mirrors, data, monkeypatch):
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", own)
    mirrors(NOWHERE)
    with pytest.raises(UnavailableError, match=r"no (connection|valid address)") as raised:
        fetch(data)
    assert "secret" not in str(raised.value)


def test_silent_mirror_is_asked_once(mirrors, data, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hang_up = threading.Timer(20, silent.close)
        hang_up.start()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name in "abc":
            mirrors(url, name=name)
        files = Files(data)
        for names in ("ab", "c"):
            with pytest.raises(UnavailableError, match="no answer"):
                files.fetch(*names)
        hang_up.cancel()
        silent.setblocking(False)
        silent.accept()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_disk_that_is_full_is_named(mirrors, serve, small_disk):
    mirrors(serve()[0])
    with pytest.raises(OSError, match="No space left on device") as raised:
        fetch(small_disk)
    assert raised.value.filename == str(small_disk) and contents(small_disk) == {}


def test_several_at_once_leave_one_whole_file_and_nothing_of_a_killed_run(mirrors, serve, data):
    mirrors(serve()[0])
    threads = [threading.Thread(target=fetch, args=(data,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = data / ".mxcompat-part-of-a-killed-run"
    left.mkdir()
    (left / NAME).write_bytes(CONTENT[:99])
    os.utime(left, (0, 0))
    fetch(data)
    assert contents(data) == {NAME: CONTENT}
