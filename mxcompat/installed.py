"""What MXNet and MXBoard need on this machine, and one line that names all that is missing."""

import ctypes
import importlib
import importlib.util
import platform
import shlex
import sys
import warnings
from importlib import metadata
from pathlib import Path

OLDEST_PYTHON, NEWEST_PYTHON = (3, 9), (3, 15)
# Where MXNet 1.9.1 has wheels.
PLATFORMS = {("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "x86_64")}
# Import names and what to install. These two must be installed without their dependencies, for
# MXNet's wheel asks for NumPy 1.
UNRESOLVED = {"mxnet": "mxnet==1.9.1", "mxboard": "mxboard==0.1.0"}
RESOLVED = {
    "numpy": "numpy",
    "tensorboard": "tensorboard",
    "cv2": "opencv-python-headless",
    "google_crc32c": "google-crc32c",
    "setuptools": "setuptools",  # has distutils, which Python 3.12 dropped
    "six": "six",
}
# Libraries that MXNet's wheel expects to find on the system, and Debian's packages of them.
LIBRARIES = {"libgomp.so.1": "libgomp1"}
if platform.machine() == "x86_64":
    LIBRARIES["libquadmath.so.0"] = "libquadmath0"
REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"


def check():
    """Make sure that MXNet can be imported, as far as can be told without doing it.

    Raises
    ------
    ImportError
        Python is too old or runs without docstrings, MXNet has been imported already, or packages
        are missing.
    """
    oldest, newest, current = (
        ".".join(map(str, version[:2]))
        for version in (OLDEST_PYTHON, NEWEST_PYTHON, sys.version_info)
    )
    tested = f"MXNet 1.9.1 was tested on Python {oldest} to {newest}, and this is {current}"
    if sys.version_info < OLDEST_PYTHON:
        raise ImportError(f"{tested}: make the virtual environment with one of those")
    if sys.version_info[:2] > NEWEST_PYTHON:
        warnings.warn(f"{tested}: it may well work", stacklevel=3)
    if sys.flags.optimize > 1:
        raise ImportError("MXNet needs docstrings: run Python without -OO and PYTHONOPTIMIZE=2")
    if "mxnet" in sys.modules:
        raise ImportError("mxnet was imported before mxcompat: import mxcompat first")
    packages = [name for name in (*UNRESOLVED, *RESOLVED) if not _is_installed(name)]
    if packages:
        raise ImportError(_explain(packages, _missing_libraries()))


def load(*names):
    """Import packages, without the warnings that only their authors could act on.

    Raises
    ------
    ImportError
        A package or a library that they need is missing.
    """
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, SyntaxWarning):
                warnings.simplefilter("ignore", category)
            for name in names:
                importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(_explain([error.name], _missing_libraries())) from error
    except OSError as error:
        libraries = _missing_libraries()
        message = _explain([], libraries) if libraries else f"MXNet cannot be loaded: {error}"
        raise ImportError(message) from error


def pip_command(action):
    """Return the beginning of a shell command that installs into this Python, without options.

    Parameters
    ----------
    action : str
        "install" or "uninstall".

    Examples
    --------
    >>> pip_command("install")
    '/home/me/.venv/bin/python -m pip install'
    """
    python = shlex.quote(sys.executable)
    # Not find_spec, in which setuptools exchanges distutils before Python 3.12.
    if any(metadata.distributions(name="pip")):
        return f"{python} -m pip {action}"
    return f"uv pip {action} --python {python}"


def _is_installed(name):
    if name == "setuptools" and sys.version_info < (3, 12):
        return True
    return importlib.util.find_spec(name) is not None


def _missing_libraries():
    if platform.system() != "Linux":
        return []
    return [name for name in LIBRARIES if not _can_load(name)]


def _can_load(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _explain(packages, libraries):
    """Name all that is missing, and the command that installs it."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) not in PLATFORMS:
        return (
            "MXNet 1.9.1 has wheels for Linux on x86-64 and 64-bit Arm, and for macOS on Intel; "
            f"this is {system} on {machine}"
        )
    commands = []
    if libraries:
        commands.append(f"apt-get install {' '.join(map(LIBRARIES.get, libraries))}")
    if packages and REQUIREMENTS.exists():
        requirements = shlex.quote(str(REQUIREMENTS))
        commands.append(f"{pip_command('install')} --no-deps -r {requirements}")
    elif packages:
        resolved = [RESOLVED.get(name, name) for name in packages if name not in UNRESOLVED]
        unresolved = [UNRESOLVED[name] for name in packages if name in UNRESOLVED]
        if unresolved:
            commands.append(f"{pip_command('install')} --no-deps {' '.join(unresolved)}")
        if resolved:
            commands.append(f"{pip_command('install')} {' '.join(resolved)}")
    missing = ", ".join([*packages, *libraries])
    note = " (Debian, Ubuntu; other systems have packages of the same libraries)" * bool(libraries)
    return f"not installed: {missing}. To install: {' && '.join(commands)}{note}"
