import contextlib
import hashlib
import http.server
import os
import socket
import threading
import time

from common import fetch as fetch_module
from common.errors import ScriptError
from common.fetch import FILES, File, UnavailableError, fetch

import pytest
from helpers import contents

CONTENT = b"what the file should hold" * 10_000
NAME = "file.bin"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def mirrors(monkeypatch):
    """Put a file with the given mirrors into the table."""

    def add(*mirrors, name=NAME):
        digest = hashlib.sha256(CONTENT).hexdigest()
        monkeypatch.setitem(FILES, name, File("the tests", mirrors, len(CONTENT), digest))

    return add


@pytest.fixture
def mirror(tmp_path, http_folder):
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    return http_folder(folder)


@pytest.fixture
def empty(tmp_path, http_folder):
    (tmp_path / "empty").mkdir()
    return http_folder(tmp_path / "empty")


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def write_damaged(data):
    data.mkdir()
    (data / NAME).write_bytes(CONTENT[:-1])


def test_file_is_fetched_once_and_kept_under_its_name(mirrors, mirror, data):
    url, got = mirror
    mirrors(url)
    assert fetch([NAME], data) == fetch([NAME], data) == [data / NAME]
    assert (data / NAME).read_bytes() == CONTENT
    assert got == [f"/{NAME}"] and list(contents(data)) == [NAME]


def test_mirrors_are_tried_in_order(mirrors, mirror, empty, data):
    mirrors(NOWHERE, empty[0], mirror[0])
    fetch([NAME], data)
    assert (data / NAME).read_bytes() == CONTENT
    assert set(empty[1]) == set(mirror[1]) == {f"/{NAME}"}


def test_own_mirror_is_tried_first(mirrors, mirror, http_folder, data, tmp_path, monkeypatch):
    other, got_other = http_folder(tmp_path / "mirror")
    mirrors(other)
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", mirror[0] + "/")
    fetch([NAME], data)
    assert mirror[1] == [f"/{NAME}"] and got_other == []


@pytest.mark.parametrize("own", [NOWHERE, "no-scheme"])
def test_own_mirror_that_does_not_answer_leaves_the_others(own, mirrors, mirror, data, monkeypatch):
    mirrors(mirror[0])
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", own)
    fetch([NAME], data)
    assert (data / NAME).read_bytes() == CONTENT


def test_damaged_file_is_reported_and_replaced(mirrors, mirror, data, capsys):
    mirrors(mirror[0])
    write_damaged(data)
    fetch([NAME], data)
    assert (data / NAME).read_bytes() == CONTENT
    assert f"{data / NAME} was damaged" in capsys.readouterr().err


@pytest.mark.parametrize("offline", [False, True])
def test_damaged_file_that_cannot_be_had_is_an_error_and_stays(offline, mirrors, data):
    mirrors(NOWHERE)
    write_damaged(data)
    with pytest.raises(ScriptError, match=f"{NAME} is damaged"):
        fetch([NAME], data, offline)
    assert (data / NAME).read_bytes() == CONTENT[:-1]


def test_missing_file_that_no_mirror_has_is_named_with_the_reasons(mirrors, empty, data):
    mirrors(NOWHERE, empty[0])
    with pytest.raises(UnavailableError, match=rf"{NAME}.*no connection.*HTTP 404"):
        fetch([NAME], data)
    assert contents(data) == {}


def test_offline_asks_nobody(mirrors, mirror, data):
    mirrors(mirror[0])
    with pytest.raises(UnavailableError, match="--offline"):
        fetch([NAME], data, offline=True)
    assert mirror[1] == [] and not data.exists()


def test_wrong_content_is_never_kept(mirrors, mirror, http_folder, data, tmp_path):
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / NAME).write_bytes(b"<html>log in first</html>")
    wrong, _ = http_folder(tmp_path / "wrong")
    mirrors(wrong)
    with pytest.raises(ScriptError, match=f"{NAME}.*wrong digest"):
        fetch([NAME], data)
    assert contents(data) == {}
    mirrors(wrong, mirror[0])
    fetch([NAME], data)
    assert (data / NAME).read_bytes() == CONTENT


class _Half(http.server.BaseHTTPRequestHandler):
    """Promises a whole file and hangs up after half of it."""

    def __init__(self, *args, directory):
        super().__init__(*args)

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(CONTENT[: len(CONTENT) // 2])

    def log_message(self, *args):
        pass


def test_download_that_breaks_off_leaves_nothing_and_the_next_mirror_is_tried(
    mirrors, mirror, http_folder, data, tmp_path
):
    half, _ = http_folder(tmp_path, _Half)
    mirrors(half)
    with pytest.raises(UnavailableError):
        fetch([NAME], data)
    assert contents(data) == {}
    mirrors(half, mirror[0])
    fetch([NAME], data)
    assert list(contents(data)) == [NAME]


def test_silent_mirror_is_waited_for_once(mirrors, data, monkeypatch):
    monkeypatch.setattr(fetch_module, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        names = [str(number) for number in range(200)]
        for name in names:
            mirrors(f"http://127.0.0.1:{silent.getsockname()[1]}", name=name)
        with pytest.raises(UnavailableError, match="no answer"):
            fetch(names, data)
        silent.setblocking(False)
        silent.accept()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_folder_with_every_file_is_not_written_to(mirrors, data):
    mirrors(NOWHERE)
    data.mkdir()
    (data / NAME).write_bytes(CONTENT)
    data.chmod(0o500)
    before = data.stat().st_mtime_ns
    assert fetch([NAME], data) == [data / NAME]
    assert data.stat().st_mtime_ns == before


def test_size_and_purpose_of_what_is_missing_are_told_once_before_the_first_download(
    mirrors, http_folder, data, tmp_path, capsys
):
    told = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            told.append(capsys.readouterr().err)
            super().do_GET()

        def log_message(self, *args):
            pass

    names = ["one", "two", "three"]
    (tmp_path / "copies").mkdir()
    for name in names:
        (tmp_path / "copies" / name).write_bytes(CONTENT)
    url, _ = http_folder(tmp_path / "copies", Handler)
    for name in names:
        mirrors(url, name=name)
    fetch(["one"], data)
    told.clear()
    fetch(names, data)
    fetch(names, data)
    first, *later = told
    (line,) = first.splitlines()
    assert line.endswith(f"fetching 0.5 MB to {data}: the tests")
    assert later == [""] and capsys.readouterr().err == ""


def send_for_ever(first, chunk, seconds):
    """Return a handler that goes on sending, a chunk every so often, for as long as it is read."""

    class Handler(_Half):
        def do_GET(self):  # noqa: N802
            self.send_response(200)
            self.end_headers()
            self.wfile.write(first)
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(chunk)
                    time.sleep(seconds)

    return Handler


def test_no_more_is_read_than_the_size_that_a_file_has(mirrors, http_folder, data, tmp_path):
    mirrors(http_folder(tmp_path, send_for_ever(CONTENT, bytes(2**16), 0))[0])
    fetch([NAME], data)
    assert contents(data) == {NAME: CONTENT}
    mirrors(http_folder(tmp_path, send_for_ever(b"x", bytes(2**16), 0))[0], name="other")
    with pytest.raises(ScriptError, match="other.*wrong digest"):
        fetch(["other"], data)
    assert contents(data) == {NAME: CONTENT}


def test_mirror_that_sends_a_byte_now_and_then_is_as_good_as_silent(
    mirrors, mirror, http_folder, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(fetch_module, "SILENCE_SECONDS", 1)
    slow = http_folder(tmp_path, send_for_ever(b"", b"x", 0.2))[0]
    for name in (NAME, "other"):
        mirrors(slow, name=name)
    with pytest.raises(UnavailableError, match="no answer"):
        fetch([NAME, "other"], data)
    assert contents(data) == {}
    mirrors(slow, mirror[0])
    fetch([NAME], data)
    assert contents(data) == {NAME: CONTENT}


BAD_BEGINNINGS = {
    "status line": b"HTTP/1.1 200 ",
    "header": b"HTTP/1.1 200 OK\r\nX-Slow: ",
    "chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0",
    "continue": b"",
}


@pytest.mark.parametrize("where", BAD_BEGINNINGS)
def test_mirror_that_never_ends_its_answer_is_given_up(
    where, mirrors, mirror, http_folder, data, tmp_path, monkeypatch
):
    class Handler(_Half):
        def do_GET(self):  # noqa: N802
            piece = b"HTTP/1.1 100 Continue\r\n\r\n" if where == "continue" else b"0"
            with contextlib.suppress(OSError):
                self.wfile.write(BAD_BEGINNINGS[where])
                while True:
                    self.wfile.write(piece)
                    time.sleep(0.1)

    monkeypatch.setattr(fetch_module, "ANSWER_SECONDS", 1)
    mirrors(http_folder(tmp_path, Handler)[0], mirror[0])
    fetch([NAME], data)
    assert contents(data) == {NAME: CONTENT}


def test_slow_but_honest_mirror_is_waited_for(mirrors, http_folder, data, tmp_path, monkeypatch):
    class Handler(_Half):
        def do_GET(self):  # noqa: N802
            self.do_HEAD()
            for start in range(0, len(CONTENT), 50_000):
                self.wfile.write(CONTENT[start : start + 50_000])
                time.sleep(0.3)

    monkeypatch.setattr(fetch_module, "ANSWER_SECONDS", 1)
    monkeypatch.setattr(fetch_module, "SILENCE_SECONDS", 1)
    mirrors(http_folder(tmp_path, Handler)[0])
    fetch([NAME], data)
    assert contents(data) == {NAME: CONTENT}


@pytest.mark.parametrize(
    "own",
    [
        "http://user:secret@127.0.0.1:9/folder",
        "http://user:secret@[::1",
        "user:secret@127.0.0.1:9",
        "ftp://user:secret@127.0.0.1:9",
        "http://user:secret@127.0.0.1:99999",
        f"http://user:secret@{'a' * 300}",
        "http://user:secret@ho\udcffst",
        "http://",
    ],
)
def test_own_mirror_that_is_no_address_leaves_the_others_and_its_password_unknown(
    own, mirrors, mirror, data, monkeypatch, capsys
):
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", own)
    mirrors(NOWHERE)
    with pytest.raises(UnavailableError, match=r"no (connection|valid address|answer)") as raised:
        fetch([NAME], data)
    mirrors(mirror[0])
    fetch([NAME], data)
    assert contents(data) == {NAME: CONTENT}
    said = str(raised.value) + capsys.readouterr().err
    assert "secret" not in said and "Traceback" not in said


def test_what_a_redirect_sends_is_not_read(mirrors, mirror, http_folder, data, tmp_path):
    class Handler(_Half):
        def do_GET(self):  # noqa: N802
            self.send_response(302)
            self.send_header("Location", f"{mirror[0]}/{NAME}")
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(2**16))

    mirrors(http_folder(tmp_path, Handler)[0])
    fetch([NAME], data)
    assert contents(data) == {NAME: CONTENT}


def test_redirect_to_no_address_is_not_called_a_wrong_digest(mirrors, http_folder, data, tmp_path):
    class Handler(_Half):
        def do_GET(self):  # noqa: N802
            self.send_response(302)
            self.send_header("Location", "http://[::1")
            self.end_headers()

    mirrors(http_folder(tmp_path, Handler)[0])
    with pytest.raises(UnavailableError, match="no valid address"):
        fetch([NAME], data)


def test_reason_that_several_mirrors_have_is_given_once(mirrors, data):
    mirrors(NOWHERE, f"{NOWHERE}/other")
    with pytest.raises(UnavailableError) as raised:
        fetch([NAME], data)
    assert str(raised.value).count("no connection") == 1


def test_disk_that_is_full_is_named(mirrors, mirror, small_disk):
    mirrors(mirror[0])
    with pytest.raises(OSError, match="No space left on device") as raised:
        fetch([NAME], small_disk)
    assert raised.value.filename == str(small_disk) and contents(small_disk) == {}


def test_fifo_under_a_files_name_is_replaced(mirrors, mirror, data):
    mirrors(mirror[0])
    data.mkdir()
    os.mkfifo(data / NAME)
    fetch([NAME], data)
    assert contents(data) == {NAME: CONTENT}


def test_several_at_once_leave_one_whole_file(mirrors, mirror, data):
    mirrors(mirror[0])
    threads = [threading.Thread(target=fetch, args=([NAME], data)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(data) == {NAME: CONTENT}


def test_certificates_that_are_not_there_are_named(mirrors, data, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nope")
    mirrors("https://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="TLS CA certificate bundle.*/nope"):
        fetch([NAME], data)


def test_partial_download_of_a_killed_run_is_removed_by_the_next_that_looks(mirrors, mirror, data):
    mirrors(mirror[0])
    fetch([NAME], data)
    left = data / ".mxcompat-part-of-a-killed-run"
    left.mkdir()
    (left / NAME).write_bytes(CONTENT[:99])
    os.utime(left, (0, 0))
    fetch([NAME], data)
    assert contents(data) == {NAME: CONTENT}
