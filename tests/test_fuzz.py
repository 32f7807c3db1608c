"""Whatever a script is given, it works or says in one line what is wrong.

For more cases than the suite has: pytest tests/test_fuzz.py --hypothesis-profile=long
"""

import copy
import json
import os
import resource
import shutil

import pytest
from helpers import PETS, TinyNetwork, encode, make_codes, paint, run_main, write_folder, write_rec
from hypothesis import given, note
from hypothesis import strategies as st

from common.codes import save_codes
from common.errors import ScriptError

MEMORY = 2 << 30  # bytes, beyond what the imports take
ODD = st.sampled_from(
    ["", ".", "-1", "0", "7", "1e999", "nan", "3,0,5", "a" * 300, "/dev/null", "pets", "good"]
) | st.text(max_size=6).filter(lambda text: text.isprintable() and text[:1] not in ("/", ".", "-"))


def mostly(*expected):
    """Give what a flag expects, three times out of four."""
    expected = st.sampled_from(expected)
    return st.one_of(expected, expected, expected, ODD).map(lambda value: [value])


COUNT, DEVICE = mostly("1", "3", "700"), mostly("auto", "cpu", "gpu")
RGB = st.lists(mostly("0.5", "120"), min_size=1, max_size=3).map(lambda lists: sum(lists, []))
FOLDER = mostly("new", "data", "pets/cat/02.png")
MODEL, PICTURES = mostly("good/tiny"), mostly("pets", "pets.rec", "pets/cat/02.png")
LAYER = mostly("conv0", "fc1_output", "flatten0_output", "pool1_output")
SHAPE = mostly("3,32,48", "3,64,48", "1,32,48", "3,1,1")
# The arguments that a script always gets, lest a run take long, and those that it may get.
ARGUMENTS = {
    "plot_filter_and_output.py": (
        {"--offline": st.just([])},
        {"--image": PICTURES, "--model": MODEL, "--layer": LAYER, "--mean-rgb": RGB}
        | {"--std-rgb": RGB, "--ctx": DEVICE, "--logdir": FOLDER, "--data-dir": FOLDER},
    ),
    "get_convnet_codes.py": (
        {"--model": MODEL, "--images": PICTURES, "--image-shape": SHAPE, "--offline": st.just([])},
        {"--max-num-images": COUNT, "--batch-size": COUNT, "--code-layer": LAYER, "--seed": COUNT}
        | {"--dtype": mostly("auto", "float32", "int8"), "--classes": PICTURES, "--ctx": DEVICE}
        | {"--data-dir": FOLDER, "--mean-rgb": RGB, "--std-rgb": RGB},
    ),
    "plot_convnet_embedding.py": ({}, {"--model": MODEL, "--logdir": FOLDER, "--data-dir": FOLDER}),
}
CALLS = st.sampled_from(sorted(ARGUMENTS)).flatmap(
    lambda script: st.tuples(
        st.just(script),
        st.fixed_dictionaries(ARGUMENTS[script][0], optional=ARGUMENTS[script][1]),
    )
)
# Where to change a file, of its length, and to which bytes; and how much of it to keep.
EDITS = st.lists(st.tuples(st.floats(0, 1) | st.floats(0, 0.1), st.binary(min_size=1, max_size=8)))
LENGTH = st.just(1) | st.floats(0, 1)
VALUES = [None, True, 0, -1, 2**40, 1e308, [], [[9, 9, 9]], {}, "", "x", "-1", "(0, 0)", "[1e9, 9]"]
MISTYPES = st.lists(st.tuples(st.integers(0, 2000), st.sampled_from(VALUES)), max_size=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function that runs a script in a folder of inputs, damaged or not."""
    base, before = tmp_path_factory.mktemp("base"), os.getcwd()
    TinyNetwork().save(base / "good")
    pictures, labels = list(map(encode, paint(13))), [ord(name[0]) for name in PETS]
    write_folder(base / "pets", pictures, PETS)
    write_rec(base / "pets.rec", pictures, labels)
    save_codes(base / "data", "tiny", *make_codes())
    folder = tmp_path_factory.mktemp("run") / "copy"

    def run(script, *arguments, damage=lambda folder: None):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder)
        damage(folder)
        note(f"{script} {arguments}")
        os.chdir(folder)
        try:
            run_main(script, *arguments)
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


@given(CALLS)
def test_arguments_work_or_end_in_one_line(run, call):
    script, options = call
    run(script, *(word for flag, values in options.items() for word in [flag, *values]))


COLLECT = ("get_convnet_codes.py", "--model", "good/tiny", "--image-shape", "3,32,48", "--offline")
CHECKPOINT_RUNS = st.sampled_from(
    [
        ("plot_filter_and_output.py", "--model", "good/tiny", "--image", "pets/cat/02.png"),
        (*COLLECT, "--images", "pets", "--dtype", "float32"),
        (*COLLECT, "--images", "pets", "--dtype", "int8"),
    ]
)


@given(CHECKPOINT_RUNS, EDITS, LENGTH)
def test_damaged_parameters_work_or_end_in_one_line(run, call, edits, length):
    run(*call, damage=lambda folder: change(folder / "good" / "tiny-0000.params", edits, length))


@given(CHECKPOINT_RUNS, MISTYPES)
def test_damaged_symbol_works_or_ends_in_one_line(run, call, mistypes):
    run(*call, damage=lambda folder: mistype(folder / "good" / "tiny-symbol.json", mistypes))


@given(st.sampled_from(["pets/cat/02.png", "pets.rec"]), EDITS, LENGTH)
def test_damaged_pictures_work_or_end_in_one_line(run, name, edits, length):
    images = name.split("/")[0]
    run(*COLLECT, "--images", images, damage=lambda folder: change(folder / name, edits, length))
