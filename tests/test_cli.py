import argparse
import signal
import subprocess
import sys
import time

from common.cli import image_shape, local_folder, number

import pytest
from conftest import ROOT, assert_one_line_error, read_log, script_env


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (number(int, 1), "1", 1),
        (number(int, 0, 2**32), "4294967295", 2**32 - 1),
        (number(float), "-3.5", -3.5),
        (number(float, 0, 1), "0", 0),
        (image_shape, "3,32,480", (3, 32, 480)),
    ],
)
def test_value_in_range_is_read(read, text, value):
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((number(int, 1), text) for text in ("0", "-1", "1.5", "", "ten", "9" * 5000)),
        *((number(int, 0, 2**32), text) for text in ("-1", "4294967296")),
        *((number(float), text) for text in ("nan", "inf", "-inf", "1e999", "x")),
        *((number(float, 0, 1), text) for text in ("1", "-0.1", "nan")),
        *((image_shape, text) for text in ("3,224", "1,224,224", "3,0,224", "3,224,10000", "x")),
    ],
)
def test_value_out_of_range_is_refused_by_name(read, text):
    with pytest.raises(argparse.ArgumentTypeError, match=" is not "):
        read(text)


def run_code(code, prefix=()):
    """Run a main of our own the way the scripts are run."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", f"from common import cli\n{code}\ncli.run(main)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=script_env(),
    )


def finish(process):
    process.stdout, (out, err) = None, process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("open('/nowhere/of/memory')", "/nowhere/of/memory: No such file or directory"),
        ("raise MemoryError", "too little memory: try a smaller --batch-size"),
        ("open('\\0')", "embedded null byte: try other arguments"),
    ],
)
def test_what_a_user_can_cause_ends_in_one_line(statement, words):
    process = run_code(f"def main():\n    {statement}")
    result = finish(process)
    assert_one_line_error(result, 1, words)


def test_bug_keeps_its_traceback():
    result = finish(run_code("def main():\n    1 / 0"))
    assert result.returncode == 1 and "Traceback" in result.stderr


def test_full_output_ends_in_one_line_that_names_it():
    command = f"{sys.executable} -c 'from common import cli; cli.run(lambda: print(1))' > /dev/full"
    result = subprocess.run(
        command, shell=True, capture_output=True, text=True, cwd=ROOT, env=script_env()
    )
    assert_one_line_error(result, 1, "standard output: No space left on device")


@pytest.mark.parametrize(
    "wait",
    [
        # What MXNet calls back, and what is deleted, cannot raise.
        "CALLBACK(lambda: time.sleep(60) or 0)()\n    time.sleep(60)",
        "Deleted()\n    time.sleep(60)",
    ],
    ids=["callback", "destructor"],
)
@pytest.mark.parametrize("pause", [0.001, 0.05])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_that_comes_twice_where_nothing_can_be_raised_is_not_lost(wait, number, pause):
    code = f"""
import ctypes, time
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int)

class Deleted:
    def __del__(self):
        time.sleep(60)

def main():
    print("ready", flush=True)
    {wait}
"""
    process = run_code(code)
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(number)
    time.sleep(pause)
    process.send_signal(number)
    result = finish(process)
    assert result.returncode == 128 + number, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.endswith({2: "stopped by Ctrl-C", 15: "stopped by SIGTERM"}[number])


def test_held_signals_are_delivered_when_the_block_has_ended():
    code = """
import time

def main():
    with cli.held_signals() as came:
        print("ready", flush=True)
        while not came:
            time.sleep(0.01)
        print("ended well")
    print("never reached")
"""
    process = run_code(code)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "ended well\n") and "SIGTERM" in err


def test_ctrl_c_that_the_shell_has_ignored_stays_ignored():
    code = """
import time

def main():
    with cli.held_signals() as came:
        print("ready", flush=True)
        time.sleep(0.5)
    print(came)
"""
    command = [sys.executable, "-c", f"from common import cli\n{code}\ncli.run(main)"]
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=script_env(),
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "[]\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_before_a_script_has_begun_ends_it_without_a_word(number):
    code = "from common import cli\nimport time\nprint('ready', flush=True)\ntime.sleep(60)"
    process = run_code(code)
    process.stdout.readline()
    time.sleep(0.2)  # A signal in the moment before it sleeps would wait until it wakes.
    process.send_signal(number)
    result = finish(process)
    assert (result.returncode, result.stderr) == (128 + number, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_to_stop_and_no_log_is_opened_in_their_place(closed, tmp_path):
    script = f"{sys.executable} {ROOT}/plot_filter_and_output.py --offline --logdir {tmp_path}"
    result = subprocess.run(
        f"{script} {closed}", shell=True, capture_output=True, text=True, env=script_env()
    )
    assert result.returncode == 0 and "Traceback" not in result.stderr
    assert len(read_log(tmp_path).Tags()["images"]) == 7


def test_help_with_closed_output_is_no_traceback():
    result = subprocess.run(
        f"{sys.executable} {ROOT}/train_mnist.py --help >&-",
        shell=True,
        capture_output=True,
        text=True,
        env=script_env(),
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("address", ["s3://bucket/logs", "gs://x", "hdfs://x", "file:///tmp/x"])
def test_address_is_no_folder(address):
    with pytest.raises(argparse.ArgumentTypeError, match=f"{address} is not a folder on this"):
        local_folder(address)


def test_file_that_may_not_be_read_is_named_and_what_can_be_done(tmp_path, unprivileged):
    (tmp_path / "secret").touch(0)
    code = f"def main():\n    open({str(tmp_path / 'secret')!r})"
    result = finish(run_code(code, unprivileged))
    assert_one_line_error(result, 1, "secret: Permission denied: choose another, or change its")
