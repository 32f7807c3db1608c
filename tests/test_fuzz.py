"""Whatever a script is given, it works or says in one line what is wrong.

For more cases than the suite has: pytest tests/test_fuzz.py --hypothesis-profile=long
"""

import copy
import json
import shutil
import subprocess
import sys

import pooch
import pytest
from helpers import (
    PETS,
    ROOT,
    TinyNetwork,
    encode,
    make_codes,
    paint,
    script_env,
    write_folder,
    write_rec,
)
from hypothesis import given, note
from hypothesis import strategies as st

from common.codes import ARRAYS, save_codes

# What one flag or another expects, and what none does.
ODD_ONES = [
    *("", ".", "-1", "0", "7", "1e999", "nan", "1e-40", "3,0,5", "4294967296", "9" * 400, "\udcff"),
    *("a" * 300, "s3://x", "/dev/null", "/dev/zero", "/proc/nope", "pets", "pets.rec", "good"),
]
ODD = st.sampled_from(ODD_ONES) | st.text(max_size=6).filter(
    lambda text: not text.startswith(("/", "..")) and "\0" not in text
)


def mostly(*values, strategy=None):
    """Give what a flag expects, four times out of five."""
    expected = st.sampled_from(values) if values else strategy.map(str)
    return st.integers(0, 4).flatmap(lambda number: expected if number else ODD)


COUNT = mostly(strategy=st.integers(1, 700))
FLOAT = mostly(strategy=st.floats(0.001, 0.9) | st.floats())
RGB = st.lists(mostly(strategy=st.floats(1, 300)), min_size=3, max_size=3)
FOLDER = mostly("new", "data", "pets/cat/02.png")
MODEL = mostly("good/tiny")
PICTURES = mostly("pets", "pets.rec", "pets/cat/02.png")
LAYER = mostly("conv0", "fc1_output", "flatten0_output", "pool1_output")
SHAPE = mostly("3,32,48", "3,32,48", "3,32,48", "3,64,48", "3,1,1", "3,9999,9999")
DEVICE = mostly("auto", "cpu", "gpu")
PIXELS = {"--mean-rgb": RGB, "--std-rgb": RGB}
FOLDERS = {"--logdir": FOLDER, "--data-dir": FOLDER}
# The arguments that a script always gets, lest a run take long, and those that it may get.
ARGUMENTS = {
    "train_mnist": (
        {"--epochs": st.just("1"), "--offline": st.none()},
        {"--batch-size": COUNT, "--lr": FLOAT, "--momentum": FLOAT, "--log-interval": COUNT}
        | {"--seed": COUNT, "--cuda": st.none(), **FOLDERS},
    ),
    "plot_filter_and_output": (
        {"--offline": st.none()},
        {"--image": PICTURES, "--model": MODEL, "--layer": LAYER, "--ctx": DEVICE}
        | {**PIXELS, **FOLDERS},
    ),
    "get_convnet_codes": (
        {"--model": MODEL, "--images": PICTURES, "--image-shape": SHAPE, "--offline": st.none()},
        {"--max-num-images": COUNT, "--batch-size": COUNT, "--code-layer": LAYER, "--seed": COUNT}
        | {"--dtype": st.sampled_from(["auto", "float32", "int8"]), "--classes": PICTURES}
        | {"--ctx": DEVICE, "--data-dir": FOLDER, **PIXELS},
    ),
    "plot_convnet_embedding": ({}, {"--model": MODEL, **FOLDERS}),
}
CALLS = st.sampled_from(sorted(ARGUMENTS)).flatmap(
    lambda script: st.tuples(
        st.just(script),
        st.fixed_dictionaries(ARGUMENTS[script][0], optional=ARGUMENTS[script][1]),
    )
)
# Where to change a file, of its length, and to which bytes; and how much of it to keep.
EDITS = st.lists(st.tuples(st.floats(0, 1) | st.floats(0, 0.1), st.binary(min_size=1, max_size=8)))
LENGTH = st.integers(0, 4).flatmap(lambda number: st.just(1) if number else st.floats(0, 1))
VALUES = st.sampled_from(
    [
        *(None, True, 0, -1, 2**40, 1e308, [], [[9, 9, 9]], {}),
        *("", "x", "0", "-1", "(0, 0)", "[1e9, 1e9]"),
    ]
)
MISTYPES = st.lists(st.tuples(st.integers(0, 2000), VALUES), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Make a folder with a checkpoint, pictures and codes to damage copies of."""
    folder = tmp_path_factory.mktemp("base")
    tiny, pictures, labels = TinyNetwork(), list(map(encode, paint(13))), [ord(n[0]) for n in PETS]
    tiny.save(folder / "good")
    write_folder(folder / "pets", pictures, PETS)
    write_rec(folder / "pets.rec", pictures, labels)
    save_codes(folder / "data", "tiny", *make_codes())
    return folder


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    """Return a function that runs a script in a copy of the base folder and judges how it ends."""
    folder = tmp_path_factory.mktemp("run") / "copy"
    server = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "fuzz_server.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=script_env(PYTHONPATH=str(ROOT)),
    )

    def run(script, *arguments, damage=lambda folder: None):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder)
        damage(folder)
        output = folder.with_name("output")
        server.stdin.write(json.dumps([script, arguments, str(folder), str(output)]) + "\n")
        server.stdin.flush()
        status = json.loads(server.stdout.readline())
        said = output.read_text(errors="replace")
        note(f"{script} {arguments} {status}\n{said}")
        assert status in (0, 1, 2)
        lines = said.splitlines()
        errors = [line for line in lines if line.startswith("fuzz_server.py: error: ")]
        assert "Traceback" not in said and errors == lines[-1:] * (status > 0)

    with server:
        yield run
        server.stdin.close()


def change(content, edits, length):
    """Change some bytes, and cut some off the end."""
    content = bytearray(content[: int(length * len(content))])
    for place, new in edits:
        start = int(place * len(content))
        content[start : start + len(new)] = new
    return bytes(content)


def mistype(tree, mistypes):
    """Put values in the place of others in a tree of JSON."""
    for number, value in mistypes:
        places = list(walk(tree))
        if places:
            node, key = places[number % len(places)]
            node[key] = copy.deepcopy(value)
    return tree


def walk(node):
    """Yield each value of a tree of JSON as what holds it, and its key there."""
    for key in node if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from walk(node[key])


@given(CALLS)
def test_arguments_work_or_end_in_one_line(run, call):
    script, options = call
    arguments = []
    for flag, value in options.items():
        arguments += [flag, *(value if isinstance(value, list) else [value] * (value is not None))]
    run(script, *arguments)


CHECKPOINT_RUNS = st.sampled_from(
    [
        ("plot_filter_and_output", "--model", "good/tiny", "--image", "pets/cat/02.png"),
        *(
            ("get_convnet_codes", "--model", "good/tiny", "--images", "pets", "--offline")
            + ("--image-shape", "3,32,48", "--dtype", dtype)
            for dtype in ("auto", "float32")
        ),
    ]
)


@given(CHECKPOINT_RUNS, EDITS, LENGTH)
def test_damaged_parameters_work_or_end_in_one_line(run, call, edits, length):
    def damage(folder):
        path = folder / "good" / "tiny-0000.params"
        path.write_bytes(change(path.read_bytes(), edits, length))

    run(*call, damage=damage)


@given(CHECKPOINT_RUNS, MISTYPES, LENGTH)
def test_damaged_symbol_works_or_ends_in_one_line(run, call, mistypes, length):
    def damage(folder):
        path = folder / "good" / "tiny-symbol.json"
        text = json.dumps(mistype(json.loads(path.read_text()), mistypes))
        path.write_text(text[: int(length * len(text))])

    run(*call, damage=damage)


@given(st.sampled_from(ARRAYS), EDITS, LENGTH, MISTYPES | st.just([]))
def test_damaged_codes_work_or_end_in_one_line(run, kind, edits, length, mistypes):
    def damage(folder):
        path = folder / "data" / f"tiny_{kind}.ndarray"
        json_path = folder / "data" / "tiny_codes.json"
        path.write_bytes(change(path.read_bytes(), edits, length))
        description = json.loads(json_path.read_text())
        description["sha256"][kind] = pooch.file_hash(str(path))
        json_path.write_text(json.dumps(mistype(description, mistypes)))

    run("plot_convnet_embedding", "--model", "tiny", damage=damage)


@given(st.sampled_from(["pets", "pets.rec"]), EDITS, LENGTH)
def test_damaged_pictures_work_or_end_in_one_line(run, images, edits, length):
    def damage(folder):
        path = folder / ("pets/cat/02.png" if images == "pets" else images)
        path.write_bytes(change(path.read_bytes(), edits, length))

    call = ("--model", "good/tiny", "--images", images, "--image-shape", "3,32,48", "--offline")
    run("get_convnet_codes", *call, damage=damage)
