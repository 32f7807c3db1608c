import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from common.cli import folder, image_shape, number, tell_how_to_see

import pytest
from helpers import ROOT, assert_one_line_error, read_log, script_env


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (number(int, 1), "1", 1),
        (number(int, 0, 2**32), "4294967295", 2**32 - 1),
        (number(float), "-3.5", -3.5),
        (number(float, 0, 1), "0", 0),
        *((image_shape, "3,32,480", (3, 32, 480)), (image_shape, "1,28,28", (1, 28, 28))),
        *((folder, "~/logs", str(Path.home() / "logs")), (folder, "a~", "a~")),
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
        *((image_shape, text) for text in ("3,224", "2,224,224", "3,0,224", "3,224,10000", "x")),
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
    ],
)
def test_what_a_user_can_cause_ends_in_one_line(statement, words):
    process = run_code(f"def main():\n    {statement}")
    result = finish(process)
    assert_one_line_error(result, 1, words)


@pytest.mark.parametrize("statement", ["1 / 0", "int('x')", "import mxnet; mxnet.nd.ones(-1)"])
def test_bug_keeps_its_traceback(statement):
    result = finish(run_code(f"def main():\n    {statement}"))
    assert result.returncode == 1 and "Traceback" in result.stderr


def test_full_output_ends_in_one_line_that_names_it():
    command = f"{sys.executable} -c 'from common import cli; cli.run(lambda: print(1))' > /dev/full"
    result = subprocess.run(
        command, shell=True, capture_output=True, text=True, cwd=ROOT, env=script_env()
    )
    assert_one_line_error(result, 1, "standard output: No space left on device")


NUMBERS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@NUMBERS
@pytest.mark.parametrize(
    "wait",
    [
        "time.sleep(60)",
        # Where MXNet calls back and where an object is deleted, Python raises nothing.
        "ctypes.CFUNCTYPE(ctypes.c_int)(lambda: time.sleep(60) or 0)()",
        "ctypes.CDLL(None).sleep(60)",
    ],
    ids=["Python", "callback", "C"],
)
def test_signal_ends_a_script_at_once_wherever_it_is(wait, number):
    code = f"import ctypes, time\ndef main():\n    print('ready', flush=True)\n    {wait}"
    process = run_code(code)
    process.stdout.readline()
    process.send_signal(number)
    result = finish(process)
    assert (result.returncode, result.stderr) == (-number, "")


@NUMBERS
def test_signal_while_mxnet_is_imported_ends_a_script_without_a_word(number, tmp_path):
    (tmp_path / "mxnet.py").write_text("print('ready', flush=True)\nimport time; time.sleep(60)")
    command = [sys.executable, "-c", "from common import cli"]
    path = f"{tmp_path}:{ROOT}"
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=script_env(PYTHONPATH=path)
    )
    process.stdout.readline()
    process.send_signal(number)
    assert (process.communicate(timeout=30)[1], process.returncode) == (b"", -number)


def test_first_process_of_a_container_ends_by_signals_too():
    code = "from common import cli\nimport time\nprint('ready', flush=True)\ntime.sleep(60)"
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a process namespace")
    command = [*unshare, sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=script_env())
    process.stdout.readline()
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    assert process.wait(timeout=30) == 143


HELD = """
import time

def main():
    with cli.signals_held() as came:
        print("ready", flush=True)
        while len(came) < NEEDED:
            time.sleep(0.01)
        print("ended well", flush=True)
    print("never reached")
"""


@NUMBERS
def test_held_signal_ends_the_script_when_the_block_has_ended(number):
    process = run_code(HELD.replace("NEEDED", "1"))
    process.stdout.readline()
    process.send_signal(number)
    result = finish(process)
    assert (result.returncode, result.stdout) == (-number, "ended well\n")


def test_second_signal_ends_a_script_that_holds_them():
    process = run_code(HELD.replace("NEEDED", "9"))
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    result = finish(process)
    assert (result.returncode, result.stdout) == (-signal.SIGTERM, "")


def test_ctrl_c_that_the_shell_has_ignored_stays_ignored():
    code = HELD.replace(
        "while len(came) < NEEDED:\n            time.sleep(0.01)", "time.sleep(0.3)"
    )
    process = run_code(code, ["sh", "-c", 'trap "" INT; exec "$@"', "sh"])
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert (result.returncode, result.stdout) == (0, "ended well\nnever reached\n")


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
        folder(address)


def test_file_that_may_not_be_read_is_named_and_what_can_be_done(tmp_path, unprivileged):
    (tmp_path / "secret").touch(0)
    code = f"def main():\n    open({str(tmp_path / 'secret')!r})"
    result = finish(run_code(code, unprivileged))
    assert_one_line_error(result, 1, "secret: Permission denied: choose another, or change its")


def test_names_with_control_characters_do_not_reach_the_terminal(capsys):
    tell_how_to_see("\x1b]0;x\a")
    assert "\x1b" not in capsys.readouterr().out


def test_variable_of_tqdm_that_is_no_number_ends_in_one_line():
    command = [sys.executable, str(ROOT / "plot_convnet_embedding.py"), "--help"]
    env = script_env(TQDM_MININTERVAL="abc")
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    assert result.returncode == 1
    assert result.stderr == (
        "an environment variable TQDM_...: could not convert string to float: 'abc'\n"
    )
