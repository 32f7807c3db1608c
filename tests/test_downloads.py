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
NAME = "file.bin"
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
    return tmp_path / "data"


def fetch(data, *names, **options):
    return Files(data, **options).fetch(*(names or [NAME]))


def test_file_is_fetched_once_and_kept_under_its_name(mirrors, serve, data):
    url, asked = serve()
    mirrors(url)
    assert fetch(data) == fetch(data) == [data / NAME]
    assert contents(data) == {NAME: CONTENT} and asked == [f"/{NAME}"]


def test_mirrors_are_tried_in_order(mirrors, serve, data):
    (empty, asked_first), (full, asked_then) = serve(content=None), serve()
    mirrors(NOWHERE, empty, full)
    fetch(data)
    assert contents(data) == {NAME: CONTENT}
    assert asked_first == asked_then == [f"/{NAME}"]


def test_mirror_that_lacks_one_file_is_asked_for_the_next(mirrors, serve, data):
    url, _ = serve()
    for name in ("absent.bin", NAME):
        mirrors(url, name=name)
    with pytest.raises(UnavailableError, match=rf"no absent\.bin in {data} \(127.*: HTTP 404\)"):
        fetch(data, "absent.bin", NAME)
    assert contents(data) == {NAME: CONTENT}


def test_own_mirror_is_tried_first(mirrors, serve, data, monkeypatch):
    (own, asked), (other, asked_other) = serve(), serve()
    mirrors(other)
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", own + "/")
    fetch(data)
    assert asked == [f"/{NAME}"] and asked_other == []


@pytest.mark.parametrize(
    "own",
    ["http://user:secret@127.0.0.1:9/folder", "user:secret@127.0.0.1:9", "ftp://user:secret@host"],
)
def test_own_mirror_that_does_not_answer_leaves_the_others_and_its_password_unknown(
    own, mirrors, serve, data, monkeypatch
):
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", own)
    mirrors(NOWHERE)
    with pytest.raises(UnavailableError, match=r"no (connection|valid address)") as raised:
        fetch(data)
    assert "secret" not in str(raised.value)
    mirrors(serve()[0])
    fetch(data)
    assert contents(data) == {NAME: CONTENT}


def test_missing_file_that_no_mirror_has_is_named_with_each_reason_once(mirrors, serve, data):
    mirrors(NOWHERE, f"{NOWHERE}/other", serve(content=None)[0])
    with pytest.raises(UnavailableError) as raised:
        fetch(data)
    nowhere = "127.0.0.1:9, 127.0.0.1:9: no connection"
    assert f"no {NAME} in {data} ({nowhere}; 127.0.0.1:" in str(raised.value)
    assert str(raised.value).endswith(": HTTP 404)")
    assert contents(data) == {}


def test_offline_asks_nobody(mirrors, serve, data):
    url, asked = serve()
    mirrors(url)
    with pytest.raises(UnavailableError, match=rf"no {NAME} in .*\(--offline\)"):
        fetch(data, offline=True)
    assert asked == [] and not data.exists()


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"!"])
def test_damaged_file_is_reported_and_replaced(content, mirrors, serve, data):
    mirrors(serve()[0])
    data.mkdir()
    (data / NAME).write_bytes(content)
    with pytest.warns(UserWarning, match=f"{data / NAME} was damaged .* has been replaced"):
        fetch(data)
    assert contents(data) == {NAME: CONTENT}


@pytest.mark.parametrize("offline", [False, True])
def test_damaged_file_that_cannot_be_had_is_an_error_and_stays(offline, mirrors, data):
    mirrors(NOWHERE)
    data.mkdir()
    (data / NAME).write_bytes(b"half")
    with pytest.raises(DamagedError, match=f"{NAME} is damaged and cannot be fetched again"):
        fetch(data, offline=offline)
    assert contents(data) == {NAME: b"half"}


@pytest.mark.parametrize("wrong", [b"<html>log in first</html>", CONTENT[:-1] + b"!"])
def test_wrong_content_is_never_kept(wrong, mirrors, serve, data):
    (wrong, _), (right, _) = serve(wrong), serve()
    mirrors(wrong)
    with pytest.raises(DamagedError, match=f"^{NAME} is damaged on the mirrors.*wrong sha256"):
        fetch(data)
    assert contents(data) == {}
    mirrors(wrong, right)
    fetch(data)
    assert contents(data) == {NAME: CONTENT}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers any request in one odd way, and logs none."""

    def __init__(self, *args, directory):
        super().__init__(*args)

    def log_message(self, *args):
        pass

    def answer(self, status, name, value, content=b""):
        self.send_response(status)
        self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


class HalfHandler(Handler):
    """Promises a whole file and hangs up after half of it."""

    def do_GET(self):  # noqa: N802
        self.answer(200, "Content-Length", str(len(CONTENT)), CONTENT[: len(CONTENT) // 2])


class LoopHandler(Handler):
    """Sends whoever asks back to itself."""

    def do_GET(self):  # noqa: N802
        self.answer(302, "Location", self.path)


class PackedHandler(Handler):
    """Sends a .gz as a packed answer to whoever would unpack it."""

    def do_GET(self):  # noqa: N802
        unpacks = "gzip" in self.headers["Accept-Encoding"]
        self.answer(200, "Content-Encoding", "gzip" if unpacks else "identity", CONTENT)


@pytest.mark.parametrize(
    ("handler", "reason"), [(HalfHandler, "no connection"), (LoopHandler, "redirects without end")]
)
def test_mirror_that_fails_leaves_nothing_and_the_next_is_tried(
    handler, reason, mirrors, serve, http_folder, data
):
    bad, _ = http_folder("", handler)
    mirrors(bad)
    with pytest.raises(UnavailableError, match=reason):
        fetch(data)
    assert contents(data) == {}
    mirrors(bad, serve()[0])
    fetch(data)
    assert contents(data) == {NAME: CONTENT}


def test_file_is_not_unpacked_on_its_way(mirrors, http_folder, data):
    mirrors(http_folder("", PackedHandler)[0])
    fetch(data)
    assert contents(data) == {NAME: CONTENT}


def test_silent_mirror_is_asked_once(mirrors, data, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name in "abc":
            mirrors(url, name=name)
        files = Files(data)
        for names in ("ab", "c"):
            with pytest.raises(UnavailableError, match="no answer"):
                files.fetch(*names)
        silent.setblocking(False)
        silent.accept()
        with pytest.raises(BlockingIOError):
            silent.accept()


@pytest.mark.filterwarnings("default:fetching")
def test_size_and_purpose_of_what_is_missing_are_told_once(mirrors, serve, data):
    mirrors(serve()[0])
    with pytest.warns(UserWarning) as told:
        fetch(data)
        fetch(data)
    (warning,) = told
    assert str(warning.message) == f"fetching 0.2 MB to {data}: the tests"


def test_disk_that_is_full_is_named(mirrors, serve, small_disk):
    mirrors(serve()[0])
    with pytest.raises(OSError, match="No space left on device") as raised:
        fetch(small_disk)
    assert raised.value.filename == str(small_disk) and contents(small_disk) == {}


def test_several_at_once_leave_one_whole_file(mirrors, serve, data):
    mirrors(serve()[0])
    threads = [threading.Thread(target=fetch, args=(data,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(data) == {NAME: CONTENT}


def test_partial_download_of_a_killed_run_is_removed_by_the_next_that_looks(mirrors, serve, data):
    mirrors(serve()[0])
    fetch(data)
    left = data / ".mxcompat-part-of-a-killed-run"
    left.mkdir()
    (left / NAME).write_bytes(CONTENT[:99])
    os.utime(left, (0, 0))
    fetch(data)
    assert contents(data) == {NAME: CONTENT}
