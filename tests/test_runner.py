import re
import sys

import helpers
import pytest
from helpers import ROOT, run_python

PROGRAM = """
import os, pickle, sys
import numpy, mxnet  # which needs names that NumPy no longer has
from mxboard import SummaryWriter
import beside
class Kept: pass
if __name__ == "__main__":
    print(sys.argv, __name__, __file__, sys.path[0], __doc__, sorted(globals())[-6:])
    print(type(pickle.loads(pickle.dumps(Kept()))).__module__, flush=True)
    exec(os.environ["END"])
"""


def run(folder, *command, end="pass", libraries=ROOT):
    env = {"PYTHONPATH": str(libraries), "END": end}
    return helpers.run(sys.executable, *command, cwd=folder, env=env)


CHAINED = """
try:
    1 / 0
except ZeroDivisionError as error:
    raise OSError("caused") from error
"""


@pytest.mark.parametrize(
    ("command", "end"),
    [
        (["pack/program.py"], "sys.exit(7)"),
        (["pack/program.py"], CHAINED),
        (["pack/program.py"], "os.kill(os.getpid(), 2)"),
        (["-m", "pack.program"], "def fail():\n    raise ValueError('a bug')\nfail()"),
    ],
)
def test_program_runs_as_with_plain_python(command, end, tmp_path):
    for folder in ("pack", "site"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pack" / "program.py").write_text(PROGRAM)
    for folder in (tmp_path, tmp_path / "pack"):
        (folder / "beside.py").touch()
    # A plain Python cannot run the program itself on NumPy 2, so mxcompat is imported by the site.
    (tmp_path / "site" / "sitecustomize.py").write_text("import mxcompat")
    plain = run(tmp_path, *command, "--flag", end=end, libraries=f"{tmp_path / 'site'}:{ROOT}")
    ours = run(tmp_path, "-m", "mxcompat", *command, "--flag", end=end)
    assert plain.stdout.startswith("['")
    assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout)
    # Only python -m itself has frames of its own above the program's.
    frames = re.compile(r'  File "<?[^"\n]*runpy[^"\n]*", .*\n(    .*\n)*')
    assert ours.stderr == frames.sub("", plain.stderr)


SPAWNING = """
import collections, multiprocessing, os, sys
import mxnet as mx

def double(numbers):
    assert isinstance(numbers, collections.Sequence)
    return (2 * mx.nd.array(numbers)).sum().asscalar()

if __name__ == "__main__":
    os.chdir(sys.argv[2])
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        print(pool.map(double, [[1, 2], [3]]))
    # Only Linux tells what the process runs that tracks resources.
    command = f"/proc/{multiprocessing.resource_tracker._resource_tracker._pid}/cmdline"
    assert not (os.path.exists(command) and "mxcompat" in open(command).read())
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_a_program_starts_are_mended_too(method, tmp_path):
    (tmp_path / "program.py").write_text(SPAWNING)
    # Not on PYTHONPATH, and not the folder either that the program works in.
    command = ["-m", "mxcompat", tmp_path / "program.py", method, tmp_path]
    result = run(ROOT, *command, libraries="")
    assert (result.returncode, result.stdout) == (0, "[6.0, 6.0]\n"), result.stderr


OLD = """
import collections, inspect, time
assert isinstance({}, collections.Mapping) and issubclass(list, collections.MutableSequence)
assert inspect.getargspec(lambda a, *b, **c: 0).args == ["a"]
assert inspect.getargspec(lambda a=5: 0) == (["a"], None, None, (5,))
assert 0 <= time.clock() <= time.process_time()
"""


def test_program_finds_what_python_removed_and_a_library_does_not(tmp_path):
    (tmp_path / "program.py").write_text(OLD)
    assert run(tmp_path, "-m", "mxcompat", "program.py").returncode == 0
    assert run_python("import mxcompat, time; assert not hasattr(time, 'clock')").returncode == 0


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        (["wrong.py"], 1, r'wrong\.py", line 2\n(.*\n)*SyntaxError'),
        (["missing.py"], 1, "cannot open missing.py: No such file or directory\n"),
        (["-m", "missing"], 1, "No module named missing"),
        ([], 2, "^usage: python -m mxcompat SCRIPT"),
        (["--help"], 2, "^usage: python -m mxcompat SCRIPT"),
    ],
)
def test_what_cannot_be_run_is_named(command, status, words, tmp_path):
    (tmp_path / "wrong.py").write_text("x = 1\nx = = 2\n")
    result = run(tmp_path, "-m", "mxcompat", *command)
    assert result.returncode == status and re.search(words, result.stderr), result.stderr
    assert not re.search("runpy|mxcompat/", result.stderr)
