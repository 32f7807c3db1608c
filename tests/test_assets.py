import hashlib
import http.server
import socket
import time

from common import assets
from common.assets import ASSETS, Asset, UnavailableError, fetch
from common.cli import ScriptError

import pytest
import requests

CONTENT = b"what the file should hold" * 10_000
NAME = "asset.bin"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def asset(monkeypatch):
    """Put an asset with the given mirrors into the table."""
    monkeypatch.delenv("MXBOARD_DEMO_MIRROR", raising=False)

    def add(*mirrors, name=NAME):
        digest = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
        monkeypatch.setitem(ASSETS, name, Asset(digest, len(CONTENT), "the tests", mirrors))

    return add


@pytest.fixture
def mirror(tmp_path, http_folder):
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    return http_folder(folder)


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def gets(requests_seen):
    return [path for method, path in requests_seen if method == "GET"]


def test_file_is_fetched_once_and_kept_under_its_name(asset, mirror, data):
    url, seen = mirror
    asset(url)
    assert fetch([NAME], data) == [data / NAME]
    assert fetch([NAME], data) == [data / NAME]
    assert (data / NAME).read_bytes() == CONTENT
    assert gets(seen) == [f"/{NAME}"] and len(seen) == 2
    assert [path.name for path in data.iterdir()] == [NAME]


def test_mirrors_are_tried_in_order(asset, mirror, http_folder, data, tmp_path):
    url, seen = mirror
    (tmp_path / "empty").mkdir()
    empty, seen_empty = http_folder(tmp_path / "empty")
    asset(NOWHERE, empty, url)
    fetch([NAME], data)
    assert (data / NAME).read_bytes() == CONTENT
    assert gets(seen) == [f"/{NAME}"]
    assert f"/{NAME}" in gets(seen_empty)


def test_own_mirror_is_tried_first(asset, mirror, http_folder, data, tmp_path, monkeypatch):
    url, seen = mirror
    other, seen_other = http_folder(tmp_path / "mirror")
    asset(other)
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", url + "/")
    fetch([NAME], data)
    assert gets(seen) == [f"/{NAME}"] and gets(seen_other) == []


def test_own_mirror_without_the_file_leaves_the_others(asset, mirror, data, monkeypatch):
    url, seen = mirror
    asset(url)
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", NOWHERE)
    fetch([NAME], data)
    assert (data / NAME).read_bytes() == CONTENT


def test_damaged_file_is_reported_and_replaced(asset, mirror, data, capsys):
    asset(mirror[0])
    data.mkdir()
    (data / NAME).write_bytes(CONTENT[:-1])
    fetch([NAME], data)
    assert (data / NAME).read_bytes() == CONTENT
    assert f"{data / NAME} is damaged" in capsys.readouterr().err


def test_damaged_file_that_cannot_be_had_is_an_error_and_stays(asset, data):
    asset(NOWHERE)
    data.mkdir()
    (data / NAME).write_bytes(b"damaged")
    for offline in (False, True):
        with pytest.raises(ScriptError, match=NAME):
            fetch([NAME], data, offline)
    assert (data / NAME).read_bytes() == b"damaged"


def test_absent_file_that_cannot_be_had_is_named_with_the_reason(
    asset, http_folder, data, tmp_path
):
    (tmp_path / "empty").mkdir()
    empty, _ = http_folder(tmp_path / "empty")
    asset(NOWHERE, empty)
    with pytest.raises(UnavailableError, match=rf"{NAME}.*no connection.*HTTP 404"):
        fetch([NAME], data)
    assert list(data.iterdir()) == []


def test_offline_asks_nobody(asset, mirror, data):
    url, seen = mirror
    asset(url)
    with pytest.raises(UnavailableError, match="--offline"):
        fetch([NAME], data, offline=True)
    assert seen == [] and not data.exists()


def test_wrong_content_is_never_kept(asset, mirror, http_folder, data, tmp_path):
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / NAME).write_bytes(b"<html>log in first</html>")
    wrong, _ = http_folder(tmp_path / "wrong")
    asset(wrong)
    with pytest.raises(ScriptError, match=f"{NAME}.*wrong digest"):
        fetch([NAME], data)
    assert list(data.iterdir()) == []
    asset(wrong, mirror[0])
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
    asset, mirror, http_folder, data, tmp_path
):
    half, _ = http_folder(tmp_path, _Half)
    asset(half)
    with pytest.raises(UnavailableError):
        fetch([NAME], data)
    assert list(data.iterdir()) == []
    asset(half, mirror[0])
    fetch([NAME], data)
    assert [path.name for path in data.iterdir()] == [NAME]


def test_silent_mirrors_cost_seconds_together_not_each(asset, data):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        mirrors = [f"http://127.0.0.1:{port}/{number}" for number in range(5)]
        for name in ("one", "two", "three"):
            asset(*mirrors, name=name)
        started = time.perf_counter()
        with pytest.raises(UnavailableError, match="no answer"):
            fetch(["one", "two", "three"], data)
    assert time.perf_counter() - started < assets.ANSWER_SECONDS + 2


def test_folder_with_every_file_is_not_written_to(asset, data):
    asset(NOWHERE)
    data.mkdir()
    (data / NAME).write_bytes(CONTENT)
    data.chmod(0o500)
    assert fetch([NAME], data) == [data / NAME]


def test_every_reason_is_short(asset, data, monkeypatch):
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", "no-scheme")
    asset(NOWHERE)
    with pytest.raises(UnavailableError) as raised:
        fetch([NAME], data)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300
    assert not isinstance(raised.value, requests.RequestException)


@pytest.fixture
def listening(tmp_path, http_folder, capsys):
    """Serve three copies of a file; keep what the user was told by the time each was asked for."""
    told = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            told.append(capsys.readouterr().err)
            super().do_GET()

        def log_message(self, *args):
            pass

    (tmp_path / "copies").mkdir()
    for name in ("one", "two", "three"):
        (tmp_path / "copies" / name).write_bytes(CONTENT)
    url, _ = http_folder(tmp_path / "copies", Handler)
    return url, told


def test_size_and_purpose_are_told_once_for_all_files_before_the_first_download(
    asset, listening, data, capsys
):
    url, told = listening
    for name in ("one", "two", "three"):
        asset(url, name=name)
    fetch(["one"], data)
    assert told.pop().splitlines()[-1].endswith(f"fetching 0.2 MB to {data}: the tests")
    # Of those that are not there yet.
    fetch(["one", "two", "three"], data)
    (line,) = told[0].splitlines()
    assert line.endswith(f"fetching 0.5 MB to {data}: the tests")
    assert told[1:] == [""] and capsys.readouterr().err == ""


def test_nothing_is_told_when_all_files_are_there_or_no_mirror_answers(asset, data, capsys):
    asset(NOWHERE)
    with pytest.raises(UnavailableError):
        fetch([NAME], data)
    (data / NAME).write_bytes(CONTENT)
    fetch([NAME], data)
    assert capsys.readouterr().err == ""
