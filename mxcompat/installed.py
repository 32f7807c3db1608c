"""One line that says what is missing on this machine, and the command that installs it."""

import contextlib
import platform
import sys
import warnings
from pathlib import Path

# Where MXNet 1.9.1 has wheels.
PLATFORMS = {("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "x86_64")}
REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"


@contextlib.contextmanager
def explained():
    """Import MXNet and what it needs in this block: what is missing is explained in one line.

    Warnings that only the authors of the packages could act on are left out.
    """
    if "mxnet" in sys.modules:
        raise ImportError("mxnet was imported before mxcompat: import mxcompat first")
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, SyntaxWarning):
                warnings.simplefilter("ignore", category)
            yield
    except ModuleNotFoundError as error:
        raise ImportError(_explain_package(error.name)) from error
    except OSError as error:  # from the loader, which names the library
        raise ImportError(
            f"MXNet cannot be loaded: {error}. On Debian and Ubuntu: "
            "apt-get install libgomp1 libquadmath0 (without the second on 64-bit Arm)"
        ) from error


def _explain_package(name):
    system, machine = platform.system(), platform.machine()
    if (system, machine) not in PLATFORMS:
        return (
            "MXNet 1.9.1 has wheels for Linux on x86-64 and 64-bit Arm, and for macOS on Intel; "
            f"this is {system} on {machine}"
        )
    # Without their dependencies, because MXNet's wheel asks for NumPy 1.
    command = f"pip install --no-deps -r {REQUIREMENTS}"
    if not REQUIREMENTS.exists():
        command = (
            "pip install --no-deps mxnet==1.9.1 mxboard==0.1.0 && pip install numpy tensorboard "
            "opencv-python-headless google-crc32c setuptools six pooch requests tqdm"
        )
    return f"{name} is not installed. To install everything: {command}"
