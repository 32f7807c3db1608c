import argparse
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers import ROOT, script_env

from common import cli


@pytest.mark.parametrize(
    ("read", "values", "wrong"),
    [
        (cli.COUNT, {"1": 1}, ["0", "-1", "1.5", "", "ten", "9" * 5000]),
        (cli.SEED, {"0": 0, "4294967295": 2**32 - 1}, ["-1", "4294967296"]),
        (cli.MEAN, {"-3.5": -3.5}, ["nan", "inf", "-inf", "1e999", "x"]),
        (cli.STD, {"1e-6": 1e-6}, ["0", "-1"]),
        (cli.number(float, 0, 1), {"0": 0}, ["1", "-0.1", "nan"]),
        (
            cli.image_shape,
            {"1,28,480": (1, 28, 480)},
            ["3,224", "2,224,224", "3,0,224", "3,224,10000", "x"],
        ),
        (cli.prefix, {f"net{each}": "net" for each in ("", "-symbol.json", "-0000.params")}, []),
        (cli.path, {"~/logs": str(Path.home() / "logs")}, []),
    ],
)
def test_value_in_range_is_read_and_any_other_is_refused_by_name(read, values, wrong):
    assert {text: read(text) for text in values} == values
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{text} is not "):
            read(text)


def run_code(body, *prefix, **env):
    """Start a script whose main has this body."""
    code = "import ctypes, time, mxcompat, mxnet\nfrom common import cli\ndef main():\n"
    command = [*prefix, sys.executable, "-c", f"{code}{textwrap.indent(body, ' ')}\ncli.run(main)"]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, cwd=ROOT, env=script_env(**env), **streams)


def finish(process):
    """Return the exit status of a script, and what it printed."""
    out, err = process.communicate("\n", timeout=300)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("statement", "status", "words"),
    [
        ("raise cli.ScriptError('do this', status=2)", 2, "do this"),
        ("raise MemoryError", 1, "there is too little memory: try a smaller --batch-size, or "),
        ("cli.make_folder('FOLDER')", 1, "FOLDER: Permission denied: choose another, or change"),
        ("raise OSError('no mirror has it')", 1, "no mirror has it"),
        ("raise OSError(28, 'full', 'x')", 1, "x: full: free some space"),
        ("cli.sys.stdout = open('/dev/full', 'w', 1)\nprint(1)", 1, "[Errno 28] No space left on"),
    ],
)
def test_error_that_a_user_can_cause_is_one_line(statement, status, words, tmp_path, unprivileged):
    tmp_path.chmod(0o555)
    statement, words = (text.replace("FOLDER", str(tmp_path)) for text in (statement, words))
    returned, _, err = finish(run_code(statement, *unprivileged))
    assert returned == status and err.startswith(f"-c: error: {words}") and err.count("\n") == 1


# What keeps MXNet's store of weights alive waits for other workers when Python frees it.
BUG = "class Store:\n def __del__(self): time.sleep(600)\nstore = Store()\nmxnet.nd.ones(-1)"


def test_bug_shows_its_traceback_and_ends_the_script_without_a_wait():
    status, _, err = finish(run_code(BUG))
    assert status == 1 and "Traceback" in err and "MXNetError" in err


# Where MXNet calls back, Python raises nothing.
CALLBACK = "print('ready')\nctypes.CFUNCTYPE(ctypes.c_int)(lambda: time.sleep(600) or 0)()"
HELD = """
with cli.signals_held() as came:
    print("ready")
    while not came:
        time.sleep(0.01)
    print("held")
    input()
    print("ended well")
print("never reached")
"""
HELD_BEFORE = "with cli.signals_held():\n pass\nprint('ready')\ninput()"


@pytest.mark.parametrize(
    ("body", "signals", "printed"),
    [
        (CALLBACK, [signal.SIGINT], ""),
        ("print('ready')\nctypes.CDLL(None).sleep(600)", [signal.SIGTERM], ""),
        (HELD, [signal.SIGINT], "held\nended well\n"),
        (HELD, [signal.SIGTERM], "held\nended well\n"),
        (HELD, [signal.SIGINT, signal.SIGTERM], ""),
        (HELD_BEFORE, [signal.SIGINT], ""),
    ],
)
def test_signal_ends_a_script_at_once_unless_it_is_held(body, signals, printed):
    process = run_code(body, PYTHONUNBUFFERED=None)
    for each in signals:
        process.stdout.readline()
        process.send_signal(each)
    assert finish(process) == (-signals[-1], printed, "")


def test_ctrl_c_that_the_shell_has_ignored_stays_ignored():
    body = "print('ready')\ninput()\nwith cli.signals_held() as came:\n print('held')\n input()"
    process = run_code(body, "sh", "-c", 'trap "" INT; exec "$@"', "sh")
    for expected in ("ready\n", "held\n"):
        assert process.stdout.readline() == expected
        process.send_signal(signal.SIGINT)
        process.stdin.write("\n")
        process.stdin.flush()
    assert finish(process)[0] == 0


@pytest.mark.parametrize(
    ("redirection", "printed"), [(">&-", "2\n"), ("2>&-", "?\n"), ("", "?\n2\n")]
)
def test_stream_that_is_closed_or_cannot_show_a_name_is_no_reason_to_stop(redirection, printed):
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    body = "print('\ufffd'); print(2, file=cli.sys.stderr)"
    status, out, err = finish(run_code(body, *shell, PYTHONIOENCODING="ascii"))
    assert (status, out + err) == (0, printed)
