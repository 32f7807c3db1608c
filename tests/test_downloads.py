import gzip
import hashlib
import http.server
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

from mxcompat import downloads
from mxcompat.downloads import FILES, DamagedError, File, Files, UnavailableError

import pytest
from helpers import NOBODY, contents

CONTENT = gzip.compress(random.Random(0).randbytes(200_000), mtime=0)
FLIPPED = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
NAME = "file.gz"

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
    """Serve the file, or nothing; return the address and what was asked for."""

    def serve(names=(NAME,)):
        folder = tmp_path / f"mirror{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(CONTENT)
        return http_folder(folder)

    return serve


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.mark.filterwarnings("default:fetching")
def test_file_is_fetched_once_and_kept_under_its_name(mirrors, serve, data):
    (url, asked), data = serve(), data / "new" / "folder"
    mirrors(url)
    with pytest.warns(UserWarning) as told:
        assert [Files(data).fetch(NAME) for _ in range(2)] == [[data / NAME]] * 2
    assert contents(data) == {NAME: CONTENT} and asked == [f"/{NAME}"]
    assert [str(each.message) for each in told] == [f"fetching 0.2 MB to {data}: the tests"]


def test_own_mirror_is_tried_first_and_the_others_in_order(mirrors, serve, data, monkeypatch):
    (own, first), (full, second), (last, third) = serve(names=()), serve(), serve()
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", own + "/folder/")
    mirrors(NOBODY, full, last, name=f"set/{NAME}")
    Files(data).fetch(f"set/{NAME}")
    assert contents(data) == {NAME: CONTENT}
    assert (first, second, third) == ([f"/folder/set/{NAME}"], [f"/{NAME}"], [])


def test_file_that_no_mirror_has_is_named_with_each_reason_once_and_the_others_are_fetched(
    mirrors, serve, data
):
    url, _ = serve()
    mirrors(url)
    mirrors(NOBODY, f"{NOBODY}/other", url, name="absent")
    reasons = r"127.0.0.1:9, 127.0.0.1:9: no connection; 127.0.0.1:\d+: HTTP 404"
    with pytest.raises(UnavailableError, match=rf"^no absent in {data} \({reasons}\)$"):
        Files(data).fetch("absent", NAME)
    assert contents(data) == {NAME: CONTENT}


def test_offline_asks_nobody(mirrors, serve, data):
    url, asked = serve()
    mirrors(url)
    with pytest.raises(UnavailableError, match=rf"no {NAME} in .*\(--offline\)"):
        Files(data, offline=True).fetch(NAME)
    assert asked == [] and contents(data) == {}


@pytest.mark.parametrize("content", [CONTENT[:-1], FLIPPED])
def test_damaged_file_is_reported_and_replaced_or_stays_if_it_cannot_be(
    content, mirrors, serve, data
):
    (data / NAME).write_bytes(content)
    mirrors(NOBODY)
    for offline in (False, True):
        with pytest.raises(DamagedError, match=f"{NAME} is damaged and cannot be fetched again"):
            Files(data, offline=offline).fetch(NAME)
    assert contents(data) == {NAME: content}
    mirrors(serve()[0])
    with pytest.warns(UserWarning, match=f"{data / NAME} was damaged .* has been replaced"):
        Files(data).fetch(NAME)
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
    status, header, value, content = 302, "Location", f"/{NAME}", b""


class WrongHandler(HalfHandler):
    content = FLIPPED


class PackingHandler(HalfHandler):
    """Sends a .gz as a packed answer to whoever would unpack it."""

    header, content = "Content-Encoding", CONTENT

    @property
    def value(self):
        return "gzip" if "gzip" in self.headers["Accept-Encoding"] else "identity"


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
        Files(data).fetch(NAME)
    assert contents(data) == {}
    mirrors(bad, serve()[0])
    Files(data).fetch(NAME)
    assert contents(data) == {NAME: CONTENT}


def test_file_is_not_unpacked_on_its_way(mirrors, http_folder, data):
    mirrors(http_folder("", PackingHandler)[0])
    Files(data).fetch(NAME)
    assert contents(data) == {NAME: CONTENT}


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ("http://user:secret@127.0.0.1:9/x", ".127.0.0.1:9: no connection"),
        ("user:secret@127.0.0.1:9", "MXBOARD_DEMO_MIRROR: no valid address"),
        ("ftp://user:secret@host", ".host: no valid address"),
    ],
)
def test_password_of_a_mirror_is_not_told(own, words, mirrors, data, monkeypatch):
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", own)
    mirrors()
    with pytest.raises(UnavailableError, match=words) as raised:
        Files(data).fetch(NAME)
    assert "secret" not in str(raised.value)


class SilentHandler(HalfHandler):
    asked = []

    def do_GET(self):  # noqa: N802
        self.asked.append(self.path)
        time.sleep(1)


def test_silent_mirror_is_asked_once(mirrors, http_folder, data, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    url, _ = http_folder("", SilentHandler)
    for name in "abc":
        mirrors(url, name=name)
    files = Files(data)
    for names in ("ab", "c"):
        with pytest.raises(UnavailableError, match="no answer"):
            files.fetch(*names)
    assert SilentHandler.asked == ["/a"]


def test_disk_that_is_full_is_named(mirrors, serve, small_disk):
    mirrors(serve()[0])
    with pytest.raises(OSError, match="No space left on device") as raised:
        Files(small_disk).fetch(NAME)
    assert raised.value.filename == str(small_disk) and contents(small_disk) == {}


def test_several_at_once_leave_one_whole_file_and_nothing_of_a_killed_run(mirrors, serve, data):
    mirrors(serve()[0])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: Files(data).fetch(NAME), range(4)))
    left = data / ".mxcompat-part-of-a-killed-run"
    left.mkdir()
    os.utime(left, (0, 0))
    Files(data).fetch(NAME)
    assert contents(data) == {NAME: CONTENT}
