import os
import subprocess
import sys

import pytest
from conftest import ROOT, script_env


def run_python(code, *args, env=None):
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=script_env(**(env or {})), timeout=60
    )


def test_import_says_nothing():
    result = run_python("from common import SummaryWriter; import mxnet as mx; mx.nd.ones(2) + 1")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_optimised_graphs_are_made_without_a_word():
    code = """
import common, mxnet as mx
net = mx.gluon.nn.Dense(2)
net.initialize()
net.optimize_for(mx.nd.ones((1, 2)), backend="MKLDNN")
"""
    result = run_python(code)
    assert (result.returncode, result.stderr) == (0, "")


def test_real_warnings_are_still_shown():
    result = run_python("import common, warnings; warnings.warn('look here', FutureWarning)")
    assert "look here" in result.stderr


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


def test_mxboard_uses_the_messages_of_tensorboard():
    code = """
import common
from mxboard.proto import event_pb2
from tensorboard.compat.proto import event_pb2 as ours
assert event_pb2 is ours
"""
    assert run_python(code).returncode == 0


def test_file_descriptors_are_left_alone():
    code = """
import os
before = [os.fstat(number) for number in range(3)]
import common
assert [os.fstat(number) for number in range(3)] == before
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("version", [(3, 8), (3, 13), (4, 0)])
def test_other_python_is_told_which_works_and_how_to_get_it(version):
    code = f"""
import runpy, sys
sys.version_info = {version}
sys.argv = ["train_mnist.py", "--epochs", "2"]
runpy.run_path("train_mnist.py", run_name="__main__")
"""
    result = run_python(code)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "3.9 to 3.12" in line and ".".join(map(str, version)) in line
    command = "uv run --python 3.12 --with-requirements requirements.txt train_mnist.py --epochs 2"
    assert line.endswith(command)


def test_missing_package_is_named_with_the_command_that_installs_it():
    result = run_python("import sys; sys.modules['mxboard'] = None; import common")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "mxboard" in line and "pip install -r requirements.txt" in line
