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
from helpers import ROOT, script_env


def run_python(code, *args, env=None, cwd=ROOT):
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=script_env(**(env or {})), timeout=60
    )


def test_import_says_nothing_and_leaves_the_process_alone():
    code = """
import multiprocessing, os, signal, sys, threading

def state():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook
    streams = sys.stdin, sys.stdout, sys.stderr
    descriptors = [os.fstat(number) for number in range(3)]
    return handlers, hooks, streams, descriptors, multiprocessing.get_start_method(allow_none=True)

before = state()
import mxcompat
assert state() == before
"""
    result = run_python(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_warnings_of_others_are_still_shown():
    result = run_python("import mxcompat, warnings; warnings.warn('look here', FutureWarning)")
    assert "look here" in result.stderr


def test_writer_takes_the_place_of_mxboards_wherever_it_is_imported():
    assert mxboard.SummaryWriter is mxboard.writer.SummaryWriter is mxcompat.SummaryWriter


@pytest.mark.parametrize(
    ("variables", "kept"),
    [
        ({"OMP_NUM_THREADS": None, "OMP_WAIT_POLICY": None}, "{cores} PASSIVE"),
        ({"OMP_NUM_THREADS": "", "OMP_WAIT_POLICY": "ACTIVE"}, "{cores} ACTIVE"),
        ({"OMP_NUM_THREADS": "2, 3", "OMP_WAIT_POLICY": "PASSIVE"}, "2 PASSIVE"),
    ],
)
def test_every_core_is_used_without_spinning_unless_the_user_says_otherwise(variables, kept):
    code = (
        "import mxcompat, os; print(*map(os.environ.get, ['OMP_NUM_THREADS', 'OMP_WAIT_POLICY']))"
    )
    kept = kept.format(cores=mxcompat.available_cores())
    assert run_python(code, env=variables).stdout == f"{kept}\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be bound here")
def test_cores_the_process_may_not_use_are_not_counted():
    code = """
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import mxcompat
print(mxcompat.available_cores(), os.environ["OMP_NUM_THREADS"])
"""
    assert run_python(code, env={"OMP_NUM_THREADS": None}).stdout == "1 1\n"


@pytest.mark.parametrize(("isa", "kept"), [("avx512_core_amx", None), ("AVX2", "AVX2")])
def test_amx_stays_off_with_a_warning_where_the_environment_asks_for_it(isa, kept):
    names = ["DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"]
    code = f"import mxcompat, os; print(*map(os.environ.get, {names}))"
    result = run_python(code, env=dict.fromkeys(names, isa))
    assert result.stdout == f"{kept} {kept}\n"
    warned = re.findall(r"^<string>:1: UserWarning: (\w+) is ignored", result.stderr, re.MULTILINE)
    assert warned == ([] if kept else names)


def test_distutils_is_there_where_no_pth_file_is_read():
    code = f"import sys; sys.path[:] = {sys.path}; import mxcompat, distutils.util"
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr


def test_mxnet_that_was_imported_before_is_an_error_that_says_so():
    message = "^mxnet was imported before mxcompat: import mxcompat"
    with pytest.raises(ImportError, match=message), installed.explained():
        pass


@pytest.fixture
def fresh(monkeypatch):
    """Let `installed` believe that MXNet has not been imported."""
    monkeypatch.delitem(sys.modules, "mxnet")
    return monkeypatch


def explain(code):
    with pytest.raises(ImportError) as raised, installed.explained():
        exec(code)
    return str(raised.value)


def test_missing_package_is_named_with_the_command_that_installs_everything(fresh, tmp_path):
    command = f"pip install --no-deps -r {ROOT / 'requirements.txt'}"
    message = "no_such is not installed. To install everything: "
    assert explain("import no_such") == message + command
    fresh.setattr(installed, "REQUIREMENTS", tmp_path / "requirements.txt")
    command = "pip install --no-deps mxnet==1.9.1 mxboard==0.1.0 && pip install numpy "
    assert explain("import no_such").startswith(message + command)


@pytest.mark.skipif(sys.platform != "linux", reason="the libraries are named as on Linux")
def test_missing_library_is_named_with_the_packages_that_have_it(fresh):
    message = explain("import ctypes; ctypes.CDLL('libmissing.so.1')")
    assert message.startswith("MXNet cannot be loaded: libmissing.so.1: cannot open")
    assert "apt-get install libgomp1 libquadmath0" in message


@pytest.mark.parametrize(
    ("system", "machine"), [("Linux", "riscv64"), ("Darwin", "arm64"), ("Windows", "AMD64")]
)
def test_platform_that_mxnet_does_not_run_on_is_told_so(system, machine, fresh):
    fresh.setattr("platform.system", lambda: system)
    fresh.setattr("platform.machine", lambda: machine)
    assert explain("import no_such").endswith(f"macOS on Intel; this is {system} on {machine}")


def test_wheel_brings_the_libraries_and_nothing_else_and_they_work(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("mxcompat", "mxfiles", "common"):
        shutil.copytree(ROOT / name, source / name)
    backend = re.search('build-backend = "(.*)"', (source / "pyproject.toml").read_text())[1]
    code = f"import {backend} as backend; print(backend.build_wheel('..'))"
    built = run_python(code, cwd=source)
    assert built.returncode == 0, built.stderr
    zipfile.ZipFile(tmp_path / built.stdout.splitlines()[-1]).extractall(folder)
    metadata = f"mxcompat-{mxcompat.__version__}.dist-info"
    assert {path.name for path in folder.iterdir()} == {"mxcompat", "mxfiles", metadata}
    code = """
import mxcompat, mxfiles
import mxnet as mx
from mxboard import SummaryWriter
with SummaryWriter("logs") as sw:
    sw.add_scalar("x", mx.nd.ones(1), 0)
print(mxcompat.__file__)
"""
    result = run_python(code, env={"PYTHONPATH": str(folder)}, cwd=tmp_path)
    assert result.stdout == f"{folder / 'mxcompat' / '__init__.py'}\n", result.stderr
    assert any((tmp_path / "logs").iterdir())
