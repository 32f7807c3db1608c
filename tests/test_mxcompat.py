import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import zipfile

import mxcompat
from mxcompat import installed, patches

import mxboard
import mxboard.writer
import pdm.backend
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


def test_every_core_is_used_unless_the_user_says_otherwise():
    code = "import mxcompat, os; print(os.environ['OMP_NUM_THREADS'])"
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    assert run_python(code, env={"OMP_NUM_THREADS": None}).stdout == f"{len(cores)}\n"
    assert run_python(code, env={"OMP_NUM_THREADS": "7"}).stdout == "7\n"


def test_first_number_of_a_list_of_threads_is_used():
    code = "import mxcompat, mxnet, os; print(os.environ['OMP_NUM_THREADS'], mxnet.nd.ones(1).size)"
    assert run_python(code, env={"OMP_NUM_THREADS": "2, 3"}).stdout == "2 1\n"


@pytest.mark.parametrize(
    "name", ["OMP_NUM_THREADS", "MXNET_CPU_WORKER_NTHREADS", "OPENCV_IO_MAX_IMAGE_PIXELS"]
)
def test_variable_that_mxnet_or_opencv_would_abort_on_is_named(name, monkeypatch):
    monkeypatch.setenv(name, "many")
    with pytest.raises(ImportError, match=f"{name} is 'many', and no whole number"):
        patches.prepare()


def test_python_without_docstrings_is_told_so():
    result = run_python("import mxcompat", env={"PYTHONOPTIMIZE": "2"})
    assert "ImportError: MXNet needs docstrings" in result.stderr.splitlines()[-1]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be bound here")
def test_cores_the_process_may_not_use_are_not_counted():
    code = """
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import mxcompat
print(mxcompat.available_cores(), os.environ["OMP_NUM_THREADS"])
"""
    assert run_python(code, env={"OMP_NUM_THREADS": None}).stdout == "1 1\n"


@pytest.mark.parametrize("name", ["DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"])
def test_amx_stays_off_with_a_warning_where_the_environment_asks_for_it(name):
    code = f"import mxcompat, os; print(os.environ.get({name!r}))"
    result = run_python(code, env={name: "avx512_core_amx"})
    assert result.stdout == "None\n"
    assert f"<string>:1: UserWarning: {name} is ignored" in result.stderr
    assert run_python(code, env={name: "AVX2"}).stdout == "AVX2\n"


@pytest.fixture
def fresh(monkeypatch):
    """Let `installed.check` believe that MXNet has not been imported."""
    monkeypatch.delitem(sys.modules, "mxnet")
    return monkeypatch


def hide(monkeypatch, *names):
    """Let Python not find some packages."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in names else find_spec(name)
    )


def test_mxnet_that_was_imported_before_is_an_error_that_says_so():
    with pytest.raises(ImportError, match="^mxnet was imported before mxcompat: import mxcompat"):
        installed.check()


def test_older_python_is_told_which_were_tested(fresh):
    fresh.setattr(sys, "version_info", (3, 8, 18))
    with pytest.raises(ImportError, match=r"3\.9 to 3\.15, and this is 3\.8: make the virtual"):
        installed.check()


def test_newer_python_is_warned_and_goes_on(fresh):
    fresh.setattr(sys, "version_info", (3, 16, 0))
    with pytest.warns(UserWarning, match=r"3\.9 to 3\.15, and this is 3\.16: it may well work"):
        installed.check()


def test_all_missing_packages_are_named_with_one_command_that_installs_them(fresh):
    hide(fresh, "mxboard", "cv2")
    with pytest.raises(ImportError) as raised:
        installed.check()
    command = f"{installed.pip_command('install')} --no-deps -r {ROOT / 'requirements.txt'}"
    assert str(raised.value) == f"not installed: mxboard, cv2. To install: {command}"


@pytest.mark.parametrize(
    ("found", "command"),
    [(["pip"], "PYTHON -m pip install"), ([], "uv pip install --python PYTHON")],
)
def test_command_is_uvs_where_python_has_no_pip(found, command, monkeypatch):
    monkeypatch.setattr("importlib.metadata.distributions", lambda name: found)
    assert installed.pip_command("install") == command.replace("PYTHON", sys.executable)


def test_without_the_projects_requirements_each_missing_package_is_in_the_command(fresh, tmp_path):
    fresh.setattr(installed, "REQUIREMENTS", tmp_path / "requirements.txt")
    hide(fresh, "mxnet", "tensorboard")
    install = installed.pip_command("install")
    with pytest.raises(ImportError) as raised:
        installed.check()
    assert str(raised.value).endswith(
        f"To install: {install} --no-deps mxnet==1.9.1 && {install} tensorboard"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the libraries are named as on Linux")
def test_all_missing_libraries_are_named_together_with_missing_packages(fresh):
    fresh.setattr(installed, "LIBRARIES", {"libmissing.so.1": "one", "libmissing.so.2": "two"})
    hide(fresh, "six")
    with pytest.raises(ImportError, match="^not installed: six, libmissing.so.1, libmissing.so.2"):
        installed.check()


@pytest.mark.skipif(sys.platform != "linux", reason="the libraries are named as on Linux")
def test_libraries_that_mxnet_does_not_find_are_named_with_their_packages(monkeypatch, tmp_path):
    (tmp_path / "unloadable.py").write_text("import ctypes; ctypes.CDLL('libmissing.so.1')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="MXNet cannot be loaded: libmissing.so.1: cannot open"):
        installed.load("unloadable")
    monkeypatch.setattr(installed, "LIBRARIES", {"libmissing.so.1": "one", "libm.so.6": "other"})
    with pytest.raises(ImportError, match="libmissing.so.1. To install: apt-get install one "):
        installed.load("unloadable")


@pytest.mark.parametrize(
    ("system", "machine"), [("Linux", "riscv64"), ("Darwin", "arm64"), ("Windows", "AMD64")]
)
def test_platform_that_mxnet_does_not_run_on_is_told_so(system, machine, fresh):
    fresh.setattr("platform.system", lambda: system)
    fresh.setattr("platform.machine", lambda: machine)
    hide(fresh, "mxnet")
    with pytest.raises(ImportError, match=f"macOS on Intel; this is {system} on {machine}$"):
        installed.check()


def test_bug_in_a_package_keeps_its_own_error(monkeypatch, tmp_path):
    (tmp_path / "buggy.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        installed.load("buggy")


@pytest.fixture(scope="module")
def wheel_folder(tmp_path_factory):
    """Build the wheel, and install it and nothing else into an empty folder."""
    work, folder = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("installed")
    source = work / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("mxcompat", "mxfiles"):
        shutil.copytree(ROOT / name, source / name)
    old = os.getcwd()
    os.chdir(source)
    try:
        wheel = work / pdm.backend.build_wheel(str(work))
    finally:
        os.chdir(old)
    install = shlex.split(installed.pip_command("install"))
    command = [*install, "--no-deps", "--target", folder, wheel]
    subprocess.run(command, check=True, capture_output=True)
    return wheel, folder


def test_wheel_brings_mxcompat_and_mxfiles_and_nothing_else(wheel_folder):
    wheel, _ = wheel_folder
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert top == {"mxcompat", "mxfiles", f"mxcompat-{mxcompat.__version__}.dist-info"}


def test_installed_library_works_from_another_place(wheel_folder, tmp_path):
    _, folder = wheel_folder
    code = """
import mxcompat
import mxnet as mx
from mxboard import SummaryWriter
with SummaryWriter("logs") as sw:
    sw.add_scalar("x", mx.nd.ones(1), 0)
print(mxcompat.__file__)
"""
    result = run_python(code, env={"PYTHONPATH": str(folder)}, cwd=tmp_path)
    assert result.stdout == f"{folder / 'mxcompat' / '__init__.py'}\n", result.stderr
    assert any((tmp_path / "logs").iterdir())
