import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, script_env


def run_python(code, *args, env=None):
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=script_env(**(env or {})), timeout=60
    )


def only_line(result, status):
    assert result.returncode == status, result.stderr
    (line,) = result.stderr.splitlines()
    return line


def test_import_and_optimised_graphs_say_nothing():
    code = """
from common import SummaryWriter
import mxnet as mx
net = mx.gluon.nn.Dense(2)
net.initialize()
net.optimize_for(mx.nd.ones((1, 2)), backend="MKLDNN")
"""
    result = run_python(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_real_warnings_are_still_shown():
    result = run_python("import common, warnings; warnings.warn('look here', FutureWarning)")
    assert "look here" in result.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_numpy_has_the_names_that_mxnet_asks_for():
    table = [[3, 1], [2, 4]]
    expected = {
        **{"product": 24, "alltrue": True, "sometrue": True, "round_": table, "mat": table},
        **{"cumproduct": [3, 3, 6, 24], "msort": [[2, 1], [3, 4]], "trapz": [2, 3]},
        **{"row_stack": table, "float_": table, "bool": True, "int": 7, "float": 7},
    }
    for name, value in expected.items():
        argument = 7 if name in ("bool", "int", "float") else table
        assert np.array_equal(vars(np)[name](argument), value), name
    constants = {"PINF": np.inf, "NINF": -np.inf, "Inf": np.inf, "Infinity": np.inf, "PZERO": 0}
    assert {name: vars(np)[name] for name in constants} == constants
    assert np.signbit(vars(np)["NZERO"]) and np.isnan([vars(np)["NaN"], vars(np)["NAN"]]).all()
    assert vars(np)["in1d"]([1, 2], [2]).tolist() == [False, True]
    assert vars(np)["unicode_"](7) == "7" and vars(np)["object"] is object


def test_every_core_is_used_unless_the_user_says_otherwise():
    code = "import common, os; print(os.environ['OMP_NUM_THREADS'])"
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    assert run_python(code, env={"OMP_NUM_THREADS": None}).stdout == f"{len(cores)}\n"
    assert run_python(code, env={"OMP_NUM_THREADS": "7"}).stdout == "7\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be bound here")
def test_cores_the_process_may_not_use_are_not_counted():
    code = """
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import common
print(os.environ['OMP_NUM_THREADS'])
"""
    assert run_python(code, env={"OMP_NUM_THREADS": None}).stdout == "1\n"


def test_amx_stays_off_even_where_the_environment_asks_for_it():
    names = "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"
    code = f"import common, os; print(*map(os.environ.get, {names}))"
    result = run_python(code, env=dict.fromkeys(names, "avx512_core_amx"))
    assert result.stdout == "None None\n"
    assert [line.split()[0] for line in result.stderr.splitlines()] == [*names]
    assert run_python(code, env=dict.fromkeys(names, "AVX2")).stdout == "AVX2 AVX2\n"


def test_file_descriptors_are_left_alone():
    code = """
import os
before = [os.fstat(number) for number in range(3)]
import common
assert [os.fstat(number) for number in range(3)] == before
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def run_script_on(version, *args):
    """Run train_mnist.py where Python says that it is another version."""
    code = f"""
import platform, runpy, sys
platform.python_version_tuple = lambda: {version}
sys.argv = ["train_mnist.py", *{args}]
runpy.run_path("train_mnist.py", run_name="__main__")
"""
    return run_python(code)


def test_older_python_ends_in_one_line_that_says_which_were_tested():
    line = only_line(run_script_on(("3", "8", "18"), "--help"), 1)
    assert line.startswith("train_mnist.py: error: this is Python 3.8") and "3.9 to 3.15" in line


def test_newer_python_is_told_which_were_tested_and_goes_on():
    result = run_script_on(("3", "16", "0a1"), "--help")
    assert "3.9 to 3.15" in only_line(result, 0)
    assert "usage: train_mnist.py" in result.stdout


def fail_to_import(change):
    """Import common after a change to the process; return what is said of it."""
    return only_line(run_python(f"import platform, sys\n{change}\nimport common"), 1)


def test_missing_package_is_named_with_the_command_that_installs_it():
    line = fail_to_import("sys.modules['mxboard'] = None")
    assert "mxboard" in line and "pip install --no-deps -r requirements.txt" in line


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libgomp.so.1", "apt-get install libgomp1"),
        ("libquadmath.so.0", "apt-get install libquadmath0"),
        ("libother.so.3", "libother.so.3"),
    ],
)
def test_missing_shared_library_is_named_with_its_package(library, package, tmp_path):
    (tmp_path / "mxnet.py").write_text(f"import ctypes\nctypes.CDLL('{library}.missing')\n")
    line = fail_to_import(f"sys.path.insert(0, {str(tmp_path)!r})")
    assert package in line


@pytest.mark.parametrize(
    ("system", "machine", "words"),
    [
        ("Linux", "aarch64", "a library of Arm's"),
        ("Darwin", "arm64", "macOS on Intel, and this is Darwin on arm64"),
        ("Windows", "AMD64", "Linux on x86-64"),
    ],
)
def test_platform_that_mxnet_does_not_run_on_is_told_so(system, machine, words):
    change = f"platform.system, platform.machine = lambda: {system!r}, lambda: {machine!r}\n"
    assert words in fail_to_import(change + "sys.modules['mxnet'] = None")


def test_program_of_ones_own_can_catch_what_a_script_ends_with():
    code = """
import sys
sys.modules["mxnet"] = None
try:
    from common import SummaryWriter
except ImportError as error:
    print("caught:", error)
"""
    result = run_python(code)
    assert result.stdout.startswith("caught: mxnet is not installed") and result.stderr == ""


def test_interrupt_during_the_imports_is_no_traceback(tmp_path):
    (tmp_path / "mxnet.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(60)"
    )
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport common",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=script_env()
    )
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, b"")
