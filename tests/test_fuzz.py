"""Whatever is in the files that a script is given, it works or says in one line what is wrong.

For more cases than the suite has: pytest tests/test_fuzz.py --hypothesis-profile=long
"""

import copy
import json
import os
import resource
import shutil

import pytest
from helpers import PETS, TinyNetwork, encode, paint, run_main, write_folder, write_rec
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ScriptError

MEMORY = 2 << 30  # bytes, beyond what the imports take
# Where to change a file, of its length, and to which bytes; and how much of it to keep.
EDITS = st.lists(st.tuples(st.floats(0, 1) | st.floats(0, 0.1), st.binary(min_size=1, max_size=8)))
LENGTH = st.just(1) | st.floats(0, 1)
VALUES = [None, True, 0, -1, 2**40, 1e308, [], [[9, 9, 9]], {}, "", "x", "-1", "(0, 0)", "[1e9, 9]"]
MISTYPES = st.lists(st.tuples(st.integers(0, 2000), st.sampled_from(VALUES)), max_size=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function that runs a script in a folder of inputs, which are damaged before."""
    base, before = tmp_path_factory.mktemp("base"), os.getcwd()
    TinyNetwork().save(base / "good")
    pictures, labels = list(map(encode, paint(13))), [ord(name[0]) for name in PETS]
    write_folder(base / "pets", pictures, PETS)
    write_rec(base / "pets.rec", pictures, labels)
    folder = tmp_path_factory.mktemp("run") / "copy"

    def run(arguments, damage, name, *how):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder)
        damage(folder / name, *how)
        os.chdir(folder)
        try:
            run_main(*arguments)
        except (ScriptError, OSError, MemoryError) as error:
            assert "\n" not in str(error)
        finally:
            os.chdir(before)

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    yield run
    resource.setrlimit(resource.RLIMIT_AS, limits)


def change(path, edits, length):
    """Change some bytes of a file, and cut some off its end."""
    content = path.read_bytes()
    content = bytearray(content[: int(length * len(content))])
    for place, new in edits:
        start = int(place * len(content))
        content[start : start + len(new)] = new
    path.write_bytes(content)


def mistype(path, mistypes):
    """Put values in the place of others in a file of JSON."""
    tree = json.loads(path.read_text())
    for number, value in mistypes:
        places = list(walk(tree))
        node, key = places[number % len(places)]
        node[key] = copy.deepcopy(value)
    path.write_text(json.dumps(tree))


def walk(node):
    """Yield each value of a tree of JSON as what holds it, and its key there."""
    for key in node if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from walk(node[key])


PLOT = ("plot_filter_and_output.py", "--model", "good/tiny", "--image", "pets/cat/02.png")
COLLECT = ("get_convnet_codes.py", "--model", "good/tiny", "--image-shape", "3,32,48", "--offline")
FLOAT32, INT8 = ((*COLLECT, "--images", "pets", "--dtype", dtype) for dtype in ("float32", "int8"))
CHECKPOINT_RUNS = st.sampled_from([PLOT, FLOAT32, INT8])


@given(CHECKPOINT_RUNS, EDITS, LENGTH)
def test_damaged_parameters_work_or_end_in_one_line(run, call, edits, length):
    run(call, change, "good/tiny-0000.params", edits, length)


@given(CHECKPOINT_RUNS, MISTYPES)
def test_damaged_symbol_works_or_ends_in_one_line(run, call, mistypes):
    run(call, mistype, "good/tiny-symbol.json", mistypes)


@given(st.sampled_from(["pets/cat/02.png", "pets.rec"]), EDITS, LENGTH)
def test_damaged_pictures_work_or_end_in_one_line(run, name, edits, length):
    run((*COLLECT, "--images", name.split("/")[0]), change, name, edits, length)
