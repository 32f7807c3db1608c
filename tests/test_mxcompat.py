import os
import re
import shutil
import subprocess
import sys
import zipfile

import mxcompat
from mxcompat import installed

import mxboard
import mxboard.writer
import pytest
from helpers import ROOT, run_python

STATE = """
import multiprocessing, os, signal, sys, threading, warnings
def state():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning
    streams = sys.stdin, sys.stdout, sys.stderr, *map(os.fstat, range(3))
    buffers = sys.stdout.line_buffering, sys.stderr.line_buffering
    processes = multiprocessing.get_start_method(allow_none=True), sorted(os.environ)
    return handlers, hooks, streams, buffers, processes
before = state()
import {}
assert state() == before
"""
ROOMS = [path.stem for path in (ROOT / "common").glob("[a-z]*.py")]


@pytest.mark.parametrize(
    ("first", "modules"),
    [("sys", "mxcompat"), ("mxcompat, mxnet", ", ".join(f"common.{room}" for room in ROOMS))],
)
def test_import_says_nothing_and_leaves_the_process_alone(first, modules):
    env = {"OMP_WAIT_POLICY": "PASSIVE"}  # which mxcompat would set
    result = run_python(f"import {first}\n{STATE.format(modules)}", env=env)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_warnings_of_others_are_still_shown():
    result = run_python("import mxcompat, warnings; warnings.warn('look here', FutureWarning)")
    assert "look here" in result.stderr


def test_writer_takes_the_place_of_mxboards_wherever_it_is_imported():
    assert mxboard.SummaryWriter is mxboard.writer.SummaryWriter is mxcompat.SummaryWriter


SHOW = "import mxcompat, os; print(*map(os.environ.get, os.environ['NAMES'].split()))"
CORES, AMX = len(os.sched_getaffinity(0)), ["DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"]


@pytest.mark.parametrize(
    ("variables", "kept", "warned"),
    [
        ({"OMP_NUM_THREADS": None, "OMP_WAIT_POLICY": None}, f"{CORES} PASSIVE", []),
        ({"OMP_NUM_THREADS": "", "OMP_WAIT_POLICY": "ACTIVE"}, f"{CORES} ACTIVE", []),
        ({"OMP_NUM_THREADS": "2, 3", "OMP_WAIT_POLICY": "PASSIVE"}, "2 PASSIVE", []),
        (dict.fromkeys(AMX, "avx512_core_amx"), "None None", AMX),
        (dict.fromkeys(AMX, "AVX2"), "AVX2 AVX2", []),
    ],
)
def test_environment_asks_for_every_core_without_spinning_and_without_amx(variables, kept, warned):
    result = run_python(SHOW, env={**variables, "NAMES": " ".join(variables)})
    assert result.stdout == f"{kept}\n"
    named = re.findall(r"^<string>:1: UserWarning: (\w+) is ignored", result.stderr, re.MULTILINE)
    assert named == warned


def test_cores_the_process_may_not_use_are_not_counted():
    code = f"import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); {SHOW}"
    env = {"OMP_NUM_THREADS": None, "NAMES": "OMP_NUM_THREADS"}
    assert run_python(code, env=env).stdout == "1\n"


def test_distutils_is_there_where_no_pth_file_is_read():
    code = f"import sys; sys.path[:] = {sys.path}; import mxcompat, distutils.util"
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=ROOT)


def test_mxnet_that_was_imported_before_is_an_error_that_says_so():
    message = "^mxnet was imported before mxcompat: import mxcompat"
    with pytest.raises(ImportError, match=message), installed.explained():
        pass


@pytest.fixture
def explain(monkeypatch):
    """Return what is said of code that fails before MXNet is imported."""

    def explain(code):
        with pytest.raises(ImportError) as raised, installed.explained():
            exec(code)
        return str(raised.value)

    monkeypatch.delitem(sys.modules, "mxnet")
    return explain


def test_missing_package_is_named_with_the_command_that_installs_everything(
    explain, monkeypatch, tmp_path
):
    message = "no_such is not installed. To install everything: pip install --no-deps "
    assert explain("import no_such") == f"{message}-r {ROOT / 'requirements.txt'}"
    monkeypatch.setattr(installed, "REQUIREMENTS", tmp_path / "requirements.txt")
    command = "mxnet==1.9.1 mxboard==0.1.0 && pip install numpy "
    assert explain("import no_such").startswith(message + command)


@pytest.mark.skipif(sys.platform != "linux", reason="the libraries are named as on Linux")
def test_missing_library_is_named_with_the_packages_that_have_it(explain):
    message = explain("import ctypes; ctypes.CDLL('libmissing.so.1')")
    assert message.startswith("MXNet cannot be loaded: libmissing.so.1: cannot open")
    assert "apt-get install libgomp1 libquadmath0" in message


@pytest.mark.parametrize("name", ["Linux riscv64", "Darwin arm64", "Windows AMD64"])
def test_platform_that_mxnet_does_not_run_on_is_told_so(name, explain, monkeypatch):
    system, machine = name.split()
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert explain("import no_such").endswith(f"macOS on Intel; this is {system} on {machine}")


USE = """
import mxcompat, mxfiles, mxnet as mx
with mxcompat.SummaryWriter("logs") as sw:
    sw.add_scalar("x", mx.nd.ones(1), 0)
print(mxcompat.__file__)
"""


def test_wheel_brings_the_libraries_and_nothing_else_and_they_work(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "installed"
    for name in ("mxcompat", "mxfiles", "common"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    backend = re.search('build-backend = "(.*)"', (source / "pyproject.toml").read_text())[1]
    built = run_python(f"import {backend} as it; print(it.build_wheel('..'))", cwd=source)
    assert built.returncode == 0, built.stderr
    zipfile.ZipFile(tmp_path / built.stdout.splitlines()[-1]).extractall(folder)
    metadata = f"mxcompat-{mxcompat.__version__}.dist-info"
    assert {path.name for path in folder.iterdir()} == {"mxcompat", "mxfiles", metadata}
    result = run_python(USE, env={"PYTHONPATH": str(folder)}, cwd=tmp_path)
    assert result.stdout == f"{folder / 'mxcompat' / '__init__.py'}\n", result.stderr
    assert any((tmp_path / "logs").iterdir())
