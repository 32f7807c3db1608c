import fcntl
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from common.cli import ScriptError
from common.codes import load_codes, save_codes
from common.compat import AVAILABLE_CORES
from common.models import (
    ConvNet,
    build_resnet_152,
    compile_encoder,
    load_code_layer,
    read_resnet_152,
)
from common.records import Batch
from common.standins import CLASSES as DRAWN_CLASSES
from common.standins import draw_classes, draw_weights

import cv2
import mxnet as mx
import numpy as np
import onnx
import pytest
from conftest import (
    ROOT,
    assert_one_line_error,
    read_log,
    read_text,
    run_script,
    script_env,
)
from mxnet.gluon.model_zoo import vision
from onnx import helper, numpy_helper

import get_convnet_codes

SCRIPT = "get_convnet_codes.py"
DEFAULT_MODEL = "imagenet1k-resnet-152"
SHAPE = (32, 48)  # of the pictures that the small network takes: no square, so that turning shows
TINY = "--model good/tiny --image-shape 3,32,48 --dtype float32"
CODE_SIZE = 7
SUFFIXES = ("convnet_codes.ndarray", "resized_images.ndarray", "labels.ndarray", "codes.json")
PETS = ["bird"] * 2 + ["cat"] * 6 + ["dog"] * 5
# Records of the long file, of pictures that repeat, labelled by which one it is.
LONG, DIFFERENT = 20_000, 12


class Network:
    """A small network whose codes NumPy can compute too.

    It mixes the colours of each pixel, and takes the means of 8 x 8 fields and the maximum of all.
    """

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        flat = 4 * (SHAPE[0] // 8 * (SHAPE[1] // 8) + 1)
        shapes = {
            "arg:conv0_weight": (4, 3, 1, 1),
            "arg:bn0_gamma": (4,),
            "arg:bn0_beta": (4,),
            "aux:bn0_moving_mean": (4,),
            "aux:bn0_moving_var": (4,),
            "arg:fc1_weight": (CODE_SIZE, flat),
            "arg:fc1_bias": (CODE_SIZE,),
        }
        self.arrays = {name: rng.uniform(0.5, 2, shape) for name, shape in shapes.items()}
        for name in ("arg:conv0_weight", "arg:fc1_weight"):
            self.arrays[name] *= rng.choice([-1, 1], shapes[name])

    def save(self, folder, number, **changes):
        """Save a checkpoint, some arrays changed or, if None, left out; return its prefix."""
        folder.mkdir(parents=True, exist_ok=True)
        data = mx.sym.Variable("data")
        mixed = mx.sym.Convolution(data, kernel=(1, 1), num_filter=4, no_bias=True, name="conv0")
        mixed = mx.sym.BatchNorm(mixed, fix_gamma=False, eps=1e-4, name="bn0")
        means = mx.sym.Pooling(mixed, kernel=(8, 8), stride=(8, 8), pool_type="avg", name="pool0")
        highest = mx.sym.Pooling(
            mixed, kernel=(1, 1), global_pool=True, pool_type="max", name="pool1"
        )
        means, highest = mx.sym.flatten(means, name="flatten0"), mx.sym.flatten(highest, name="all")
        row = mx.sym.concat(means, highest, name="concat0")
        codes = mx.sym.FullyConnected(row, num_hidden=CODE_SIZE, name="fc1")
        mx.sym.SoftmaxOutput(codes, name="softmax").save(str(folder / "tiny-symbol.json"))
        arrays = {name: changes.get(name.split(":")[1], a) for name, a in self.arrays.items()}
        arrays = {name: mx.nd.array(array) for name, array in arrays.items() if array is not None}
        mx.nd.save(str(folder / f"tiny-{number:04}.params"), arrays)
        return folder / "tiny"

    def codes(self, pixels, layer="fc1_output"):
        weight, gamma, beta, mean, var, dense, bias = self.arrays.values()
        count, _, height, width = pixels.shape
        mixed = np.einsum("fc,nchw->nhwf", weight[:, :, 0, 0], pixels)
        mixed = (mixed - mean) / np.sqrt(var + 1e-4) * gamma + beta
        mixed = mixed.transpose(0, 3, 1, 2)
        highest = mixed.max(axis=(2, 3))
        if layer == "pool1_output":
            return highest
        fields = mixed.reshape(count, 4, height // 8, 8, width // 8, 8).mean(axis=(3, 5))
        fields = fields.reshape(count, -1)
        if layer == "flatten0_output":
            return fields
        return np.concatenate([fields, highest], axis=1) @ dense.T + bias


def paint(count, height=45, width=69, seed=0):
    """Paint pictures of coloured fields, each its own, as JPEGs that a pack keeps as they are."""
    fields = np.random.default_rng(seed).integers(256, size=(count, 5, 8, 3), dtype=np.uint8)
    larger = [cv2.resize(f, (width, height), interpolation=cv2.INTER_NEAREST) for f in fields]
    return [cv2.imencode(".jpg", picture)[1].tobytes() for picture in larger]


def crops(jpegs, height=SHAPE[0], width=SHAPE[1]):
    """Cut out the centres, (N, 3, H, W) uint8 RGB."""
    cut = []
    for jpeg in jpegs:
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        cut.append(picture[top : top + height, left : left + width].transpose(2, 0, 1))
    return np.array(cut)


def assert_belong(found, pixels, expected, names):
    """Check that each code has the thumbnail and the class of one picture; return which it is."""
    codes, thumbnails, labels, description = found
    assert codes.shape == (len(labels), expected.shape[1])
    distances = abs(codes[:, None] - expected).max(axis=2)
    which = distances.argmin(axis=1)
    assert distances.min(axis=1).max() < 1e-5 * abs(expected).max()
    rows = pixels.transpose(0, 2, 3, 1)
    small = np.array([cv2.resize(row, (64, 64), interpolation=cv2.INTER_AREA) for row in rows])
    assert abs(thumbnails - small.transpose(0, 3, 1, 2)[which].astype(int)).max() <= 1
    assert [description["class_names"][label] for label in labels] == [names[i] for i in which]
    return which.tolist()


def write_folder(folder, jpegs, names):
    for number, (jpeg, name) in enumerate(zip(jpegs, names)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{number:02}.jpg").write_bytes(jpeg)
    return folder


def write_rec(path, jpegs, labels):
    """Write a RecordIO file as another program would, without an index."""
    records = mx.recordio.MXRecordIO(str(path), "w")
    for number, (jpeg, label) in enumerate(zip(jpegs, labels)):
        records.write(mx.recordio.pack(mx.recordio.IRHeader(0, float(label), number, 0), jpeg))
    records.close()
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def codes_of(data_dir, name="tiny"):
    return {suffix: (data_dir / f"{name}_{suffix}").read_bytes() for suffix in SUFFIXES}


class Place:
    """A folder with a checkpoint, good/tiny, and pictures of three pets."""

    def __init__(self, folder):
        self.folder = folder
        self.network = Network(seed=12)
        # The highest number is the latest, however it is written, and what ends otherwise is none.
        Network(seed=3).save(folder / "good", 9)
        self.prefix = self.network.save(folder / "good", 12)
        (folder / "good" / "tiny-0100.params.bak").write_bytes(b"no checkpoint")
        self.jpegs = paint(len(PETS))
        self.pixels = crops(self.jpegs)
        self.codes = self.network.codes(self.pixels)
        write_folder(folder / "pets", self.jpegs, PETS)

    def collect(self, data_dir, *args, images="pets", **options):
        """Run the script from this folder with the small network; return it when it is done."""
        args = [*shlex.split(TINY), "--offline", "--data-dir", data_dir, "--images", images, *args]
        return run_script(SCRIPT, *args, cwd=self.folder, **options)

    def collected(self, data_dir, *args, **options):
        """Run the script, and return the set of codes that it made."""
        result = self.collect(data_dir, *args, **options)
        assert result.returncode == 0, result.stderr
        return load_codes(data_dir, "tiny")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("place"))


class Run:
    """A finished run over the 13 pets in batches of 4."""

    def __init__(self, place):
        self.data_dir = place.folder / "run" / "data"
        self.result = place.collect(self.data_dir, "--batch-size", 4)
        assert self.result.returncode == 0, self.result.stderr
        self.found = load_codes(self.data_dir, "tiny")


@pytest.fixture(scope="module")
def run(place):
    return Run(place)


@pytest.fixture(scope="module")
def long_rec(place):
    """Write many records of few pictures."""
    jpegs = paint(DIFFERENT, seed=5)
    numbers = [number % DIFFERENT for number in range(LONG)]
    return write_rec(place.folder / "long.rec", (jpegs[number] for number in numbers), numbers)


def assert_belong_to_long(found, network):
    pixels = crops(paint(DIFFERENT, seed=5))
    names = [str(number) for number in range(DIFFERENT)]
    return assert_belong(found, pixels, network.codes(pixels), names)


def test_each_picture_has_its_code_thumbnail_and_class_once_in_random_order(run, place):
    which = assert_belong(run.found, place.pixels, place.codes, PETS)
    assert sorted(which) == list(range(13)) != which
    assert run.found[3]["class_names"] == ["bird", "cat", "dog"]


def test_set_says_which_pictures_weights_and_precision_it_is_of(run):
    _, _, _, description = run.found
    assert "`pets`" in description["pictures"] and "13 of 13" in description["pictures"]
    assert "`fc1_output`" in description["weights"]
    assert "tiny-0012.params" in description["weights"]
    assert (description["precision"], description["seed"]) == ("float32", 42)


def test_output_tells_how_many_codes_there_are_how_fast_and_what_to_do_next(run):
    first, last = run.result.stdout.splitlines()
    assert re.fullmatch(r"13 codes of 7 numbers: [\d.]+ pictures a second", first)
    command = f"python plot_convnet_embedding.py --model good/tiny --data-dir {run.data_dir}"
    assert last.endswith(command)


def test_fewer_pictures_than_asked_for_are_all_taken_and_it_says_so(run):
    (line,) = run.result.stderr.splitlines()
    assert "there are 13 pictures" in line


@pytest.mark.parametrize("batch_size", [1, 100])
def test_batch_size_changes_nothing_even_if_it_is_larger_than_the_set(
    batch_size, run, place, tmp_path
):
    found = place.collected(tmp_path, "--batch-size", batch_size)
    np.testing.assert_allclose(found[0], run.found[0], rtol=1e-5)
    assert (found[1] == run.found[1]).all() and (found[2] == run.found[2]).all()
    assert found[3] == run.found[3]


def test_pictures_are_drawn_without_replacement_the_same_for_a_seed(run, place, tmp_path):
    draws = {}
    for name, seed in (("one", 7), ("two", 7), ("other", 8)):
        result = place.collect(tmp_path / name, "--max-num-images", 6, "--seed", seed)
        assert result.returncode == 0 and result.stderr == ""
        found = load_codes(tmp_path / name, "tiny")
        draws[name] = assert_belong(found, place.pixels, place.codes, PETS)
        assert len(set(draws[name])) == 6
        assert "6 of 13" in found[3]["pictures"] and found[3]["seed"] == seed
    assert codes_of(tmp_path / "one") == codes_of(tmp_path / "two")
    assert set(draws["one"]) != set(draws["other"]) and draws["one"] != sorted(draws["one"])


def test_second_run_replaces_the_set(place, tmp_path):
    save_codes(tmp_path, "tiny", *earlier_set(), {**DESCRIPTION, "seed": 1})
    found = place.collected(tmp_path)
    assert len(assert_belong(found, place.pixels, place.codes, PETS)) == 13
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([2, 0, 2, 1, 0, 2, 1], "ant\nbee\ncow\nunused\n", ["ant", "bee", "cow", "unused"]),
        ([-3, 0, 1, 9, 9, 0, -3], "ant\nbee\n", ["-3", "ant", "bee", "9"]),
        ([500, 0, 1, 0, 9, 0, 1], None, ["0", "1", "9", "500"]),
    ],
    ids=["all named", "too few names", "no names"],
)
def test_labels_of_a_rec_made_elsewhere_are_named_and_stay_with_their_pictures(
    labels, names, expected, place, tmp_path
):
    jpegs = paint(len(labels), seed=1)
    args = ["--batch-size", 3]
    if names:
        (tmp_path / "names.txt").write_text(names)
        args += ["--classes", tmp_path / "names.txt"]
    rec = write_rec(tmp_path / "other.rec", jpegs, labels)
    found = place.collected(tmp_path / "data", *args, images=rec)
    assert found[3]["class_names"] == expected
    lines = dict(enumerate((names or "").splitlines()))
    of_pictures = [lines.get(label, str(label)) for label in labels]
    pixels = crops(jpegs)
    which = assert_belong(found, pixels, place.network.codes(pixels), of_pictures)
    assert sorted(which) == list(range(7))
    assert [path.name for path in tmp_path.glob("*.rec*")] == ["other.rec"]


def test_damaged_records_are_counted_and_named_and_move_no_code(place, tmp_path):
    jpegs = paint(9, seed=2)
    names = [str(number) for number in range(9)]
    damaged = [b"" if number in (0, 4, 5) else jpeg for number, jpeg in enumerate(jpegs)]
    rec = write_rec(tmp_path / "other.rec", damaged, range(9))
    result = place.collect(tmp_path, "--batch-size", 4, "--max-num-images", 9, images=rec)
    assert result.returncode == 0, result.stderr
    (line,) = result.stderr.splitlines()
    assert "3 (record" in line and all(f"record {number}" in line for number in (0, 4, 5))
    found = load_codes(tmp_path, "tiny")
    pixels = crops(jpegs)
    which = assert_belong(found, pixels, place.network.codes(pixels), names)
    assert sorted(which) == [1, 2, 3, 6, 7, 8]
    assert "6 of 9" in found[3]["pictures"] and "6 codes" in result.stdout


def test_folder_without_subfolders_is_one_class_and_unreadable_pictures_are_named(place, tmp_path):
    (tmp_path / "holiday").mkdir()
    jpegs = paint(3, seed=3)
    for number, jpeg in enumerate(jpegs):
        (tmp_path / "holiday" / f"{number}.jpg").write_bytes(jpeg)
    (tmp_path / "holiday" / "page.jpg").write_bytes(b"<html>not found</html>")
    (tmp_path / "holiday" / "zero.png").write_bytes(b"")
    result = place.collect(
        tmp_path / "data", "--max-num-images", 3, images=tmp_path / "holiday", timeout=60
    )
    assert result.returncode == 0, result.stderr
    (line,) = result.stderr.splitlines()
    assert "2 (page.jpg, zero.png)" in line
    found = load_codes(tmp_path / "data", "tiny")
    assert found[3]["class_names"] == ["holiday"]
    pixels = crops(jpegs)
    which = assert_belong(found, pixels, place.network.codes(pixels), ["holiday"] * 3)
    assert sorted(which) == [0, 1, 2]


def test_network_of_the_published_demo_whose_weights_are_gone_is_told_so(place, tmp_path):
    result = run_script(SCRIPT, "--model", "imagenet1k-inception-bn", cwd=tmp_path)
    assert_one_line_error(result, 1, "no longer published", "--model")


SYNSETS = ["mine", "n02102040", "n03028079"]


def test_synset_folders_take_their_names_from_synset_txt(real, place, tmp_path):
    images = write_folder(tmp_path / "pictures", paint(3), SYNSETS)
    (tmp_path / "data").mkdir()
    shutil.copy(real / "synset.txt", tmp_path / "data")
    result = place.collect(tmp_path / "data", "--max-num-images", 3, images=images)
    assert result.returncode == 0 and result.stderr == ""
    found = load_codes(tmp_path / "data", "tiny")
    names = [
        "mine",
        "n02102040 English springer, English springer spaniel",
        "n03028079 church, church building",
    ]
    assert found[3]["class_names"] == names
    assert_belong(found, place.pixels[:3], place.codes[:3], names)


def test_synset_folders_keep_their_ids_without_synset_txt_and_it_says_so(place, tmp_path):
    images = write_folder(tmp_path / "pictures", paint(3), SYNSETS)
    result = place.collect(tmp_path / "data", "--max-num-images", 3, images=images)
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert "synset.txt" in line and "ids" in line
    found = load_codes(tmp_path / "data", "tiny")
    assert found[3]["class_names"] == SYNSETS
    assert_belong(found, place.pixels[:3], place.codes[:3], SYNSETS)


def test_mean_rgb_is_subtracted_before_the_network(place, tmp_path):
    mean = (123.5, 20, -30)
    found = place.collected(tmp_path, "--mean-rgb", *mean)
    codes = place.network.codes(place.pixels - np.reshape(mean, (3, 1, 1)))
    assert len(assert_belong(found, place.pixels, codes, PETS)) == 13


@pytest.mark.parametrize(
    ("layer", "shape"),
    [("flatten0_output", SHAPE), ("pool1_output", (40, 24)), ("pool1_output", (8, 64))],
)
def test_code_layer_and_image_shape_give_the_output_of_that_layer_for_that_crop(
    layer, shape, place, tmp_path
):
    shape_argument = f"3,{shape[0]},{shape[1]}"
    found = place.collected(tmp_path, "--code-layer", layer, "--image-shape", shape_argument)
    pixels = crops(place.jpegs, *shape)
    codes = place.network.codes(pixels, layer)
    assert sorted(assert_belong(found, pixels, codes, PETS)) == list(range(13))
    assert f"`{layer}`" in found[3]["weights"]


def test_checkpoint_saved_in_float16_is_read(place, tmp_path):
    prefix = place.network.save(place.folder / "half", 1)
    path = f"{prefix}-0001.params"
    halves = {name: array.astype("float16") for name, array in mx.nd.load(path).items()}
    mx.nd.save(path, halves)
    codes, _, labels, _ = place.collected(tmp_path, "--model", "half/tiny")
    expected, _, _, _ = place.collected(tmp_path)
    assert abs(codes - expected).max() < 0.01 * abs(expected).max() and len(codes) == 13


def test_only_rows_that_the_pictures_make_are_code_layers(tmp_path):
    data, weight = mx.sym.Variable("data"), mx.sym.Variable("fc1_weight", shape=(5, 3))
    weight = mx.sym.L2Normalization(weight, name="normal")
    means = mx.sym.flatten(mx.sym.Pooling(data, kernel=(1, 1), global_pool=True, pool_type="avg"))
    codes = mx.sym.FullyConnected(means, weight, num_hidden=5, no_bias=True, name="fc1")
    turned = mx.sym.transpose(codes, name="turned")
    mx.model.save_checkpoint(
        str(tmp_path / "net"), 0, turned, {"fc1_weight": mx.nd.ones((5, 3))}, {}
    )
    for layer in ("normal_output", "turned_output"):
        with pytest.raises(ScriptError, match="these are: .*fc1_output$"):
            load_code_layer(str(tmp_path / "net"), layer, (3, 8, 8))
    assert load_code_layer(str(tmp_path / "net"), "fc1_output", (3, 8, 8)).parameters


# Bad input: arguments, exit status, and words that the line must have


# No maps, no input and nothing that needs a label.
CANDIDATES = "these are: flatten0_output pool1_output all_output concat0_output fc1_output"
REFUSED = {
    "no pictures wanted": (
        f"{TINY} --images pets --max-num-images 0",
        2,
        ["--max-num-images", "0"],
    ),
    "code layer of the default network": (
        "--images pets --code-layer fc1_output",
        2,
        ["--code-layer", "--model"],
    ),
    "mean of the default network": (
        "--images pets --mean-rgb 0 0 1",
        2,
        ["--mean-rgb", "--model"],
    ),
    "layer that is not there": (
        f"{TINY} --images pets --code-layer fc2_output",
        2,
        ["fc2_output", CANDIDATES],
    ),
    "layer of feature maps": (
        f"{TINY} --images pets --code-layer conv0_output",
        2,
        ["conv0_output", CANDIDATES],
    ),
    "layer that takes a label": (
        f"{TINY} --images pets --code-layer softmax_output",
        2,
        ["softmax_output", CANDIDATES],
    ),
    "no parameters": (f"{TINY} --images pets --model bare/tiny", 1, ["tiny-0000.params"]),
    "damaged parameters": (f"{TINY} --images pets --model cut/tiny", 1, ["tiny-0001.params"]),
    "parameter that is missing": (
        f"{TINY} --images pets --model lacking/tiny",
        1,
        ["lacking/tiny-0001.params", "fc1_bias"],
    ),
    "auxiliary state that is missing": (
        f"{TINY} --images pets --model stateless/tiny",
        1,
        ["stateless/tiny-0001.params", "bn0_moving_var"],
    ),
    "parameters of other shapes": (
        f"{TINY} --images pets --model other/tiny",
        1,
        ["--image-shape"],
    ),
    "auxiliary states of other shapes": (
        f"{TINY} --images pets --model states/tiny",
        1,
        ["states/tiny"],
    ),
    "network without pictures": (f"{TINY} --images pets --model blind/tiny", 1, ["data"]),
    "pictures too large": (
        f"{TINY} --images pets --image-shape 3,64,48",
        1,
        ["3,64,48", "--image-shape"],
    ),
    "pictures too small": (
        f"{TINY} --images pets --image-shape 3,4,48",
        1,
        ["3,4,48", "--image-shape"],
    ),
    "codes that are no numbers": (f"{TINY} --images pets --model endless/tiny", 1, ["no numbers"]),
    "codes that are no numbers in any precision": (
        f"{TINY} --images pets --model endless/tiny --dtype auto",
        1,
        ["no numbers"],
    ),
    "weights that are no numbers, in int8": (
        f"{TINY} --images pets --model nan/tiny --dtype int8",
        1,
        ["no numbers"],
    ),
    "images that are an empty word": (f"{TINY} --images ''", 2, ["--images"]),
    "no GPU": (f"{TINY} --images pets --ctx gpu", 1, ["no GPU", "mxnet-cu112"]),
    "no pictures": (f"{TINY} --images nowhere", 2, ["--images", "nowhere"]),
    "empty folder": (f"{TINY} --images empty", 1, ["empty", "no pictures"]),
    "folder without a readable picture": (f"{TINY} --images junk_pets", 1, ["junk_pets", "read"]),
    "rec without a readable picture": (f"{TINY} --images junk.rec", 1, ["junk.rec", "read"]),
    "truncated rec": (f"{TINY} --images cut.rec", 1, ["cut.rec is truncated"]),
    "classes of a folder": (f"{TINY} --images pets --classes names.txt", 2, ["--classes", ".rec"]),
    "classes of nothing": (f"{TINY} --classes names.txt", 2, ["--classes", ".rec"]),
    "classes that are not there": (f"{TINY} --images ok.rec --classes no.txt", 1, ["no.txt"]),
    "damaged weights": ("--images pets", 1, ["resnet152-v2-7.onnx", "damaged"]),
    "damaged archive": (f"{TINY}", 1, ["imagenette2-320.tgz", "damaged"]),
}
DESCRIPTION = {
    "class_names": ["one"],
    "pictures": "made up",
    "weights": "made up",
    "precision": "float32",
    "seed": 42,
}


def earlier_set(count=2):
    thumbnails = np.full((count, 3, 64, 64), 7, np.uint8)
    return np.full((count, 5), 1.5), thumbnails, np.zeros(count)


def spoil(place):
    """Put everything bad beside the good."""
    folder, network = place.folder, place.network
    for name in ("bare", "cut", "blind"):
        network.save(folder / name, 1)
    (folder / "bare" / "tiny-0001.params").unlink()
    parameters = folder / "cut" / "tiny-0001.params"
    parameters.write_bytes(parameters.read_bytes()[:-100])
    blind = folder / "blind" / "tiny-symbol.json"
    blind.write_text(blind.read_text().replace('"data"', '"pixels"'))
    network.save(folder / "lacking", 1, fc1_bias=None)
    network.save(folder / "stateless", 1, bn0_moving_var=None)
    network.save(folder / "other", 1, fc1_weight=np.ones((CODE_SIZE, 99)))
    network.save(folder / "states", 1, bn0_moving_mean=np.ones(5))
    network.save(folder / "endless", 1, fc1_bias=np.full(CODE_SIZE, np.inf))
    network.save(folder / "nan", 1, conv0_weight=np.full((4, 3, 1, 1), np.nan))
    (folder / "empty" / "class").mkdir(parents=True)
    write_folder(folder / "junk_pets", [b"no picture"] * 2, ["cat", "dog"])
    write_rec(folder / "ok.rec", place.jpegs, range(13))
    write_rec(folder / "junk.rec", [b"no picture"] * 5, range(5))
    (folder / "cut.rec").write_bytes((folder / "ok.rec").read_bytes()[:-50])
    (folder / "names.txt").write_text("ant\nbee\n")


@pytest.fixture(scope="module")
def refused(place):
    """Run all that must be refused, each beside earlier sets; tell what became of both."""
    spoil(place)
    names = (
        [f"tiny_{suffix}" for suffix in SUFFIXES]
        + [f"{DEFAULT_MODEL}_{suffix}" for suffix in SUFFIXES]
        + ["resnet152-v2-7.onnx", "imagenette2-320.tgz"]
    )

    def refuse(case):
        data_dir = place.folder / "refused" / case
        for model in ("tiny", DEFAULT_MODEL):
            save_codes(data_dir, model, *earlier_set(), DESCRIPTION)
        for name in names[-2:]:
            (data_dir / name).write_bytes(b"damaged")
        before = contents(data_dir)
        args = ["--offline", "--data-dir", data_dir, *shlex.split(REFUSED[case][0])]
        result = run_script(SCRIPT, *args, cwd=place.folder)
        after = contents(data_dir)
        return result, before, {name: after.get(name) for name in names}, sorted(after)

    with ThreadPoolExecutor(AVAILABLE_CORES) as threads:
        return dict(zip(REFUSED, threads.map(refuse, REFUSED)))


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_ends_in_one_line_and_leaves_the_earlier_sets_as_they_were(case, refused):
    result, before, kept, left = refused[case]
    _, status, words = REFUSED[case]
    assert_one_line_error(result, status, *words)
    assert kept == before
    assert not [name for name in left if name.startswith(".") or name.endswith(".part")]
    assert result.stdout == ""


def test_full_disk_ends_in_one_line_and_keeps_the_earlier_set(place, small_disk):
    save_codes(small_disk, "tiny", *earlier_set(), DESCRIPTION)
    before = contents(small_disk)
    rec = write_rec(place.folder / "indexed.rec", place.jpegs, range(13))
    magic = struct.pack("<I", 0xCED7230A)
    starts = [match.start() for match in re.finditer(magic, rec.read_bytes())]
    lines = (f"{number}\t{start}\n" for number, start in enumerate(starts))
    rec.with_suffix(".idx").write_text("".join(lines))
    result = place.collect(small_disk, images=rec)
    assert_one_line_error(result, 1, str(small_disk), "free some space")
    assert contents(small_disk) == before
    load_codes(small_disk, "tiny")


class Terminal:
    """The script in a terminal of its own, where it shows its progress."""

    def __init__(self, cwd, *args):
        self._terminal, process_end = pty.openpty()
        fcntl.ioctl(process_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        command = [sys.executable, ROOT / SCRIPT, *shlex.split(TINY), *map(str, args)]
        self.process = subprocess.Popen(
            command, stdout=process_end, stderr=process_end, env=script_env(), cwd=cwd
        )
        os.close(process_end)
        self._too_long = threading.Timer(120, self.process.kill)
        self._too_long.start()
        self.shown = ""

    def _read(self):
        try:
            chunk = os.read(self._terminal, 65536).decode(errors="replace")
        except OSError:
            # The process has closed its end.
            self._too_long.cancel()
            chunk = ""
        self.shown += chunk
        return chunk

    def stop(self, pattern, number):
        """Send a signal once it shows the pattern; return the status and what it shows then."""
        while not re.search(pattern, self.shown):
            assert self._read(), self.shown
        before = len(self.shown)
        self.process.send_signal(number)
        while self._read():
            pass
        os.close(self._terminal)
        return self.process.wait(timeout=60), self.shown[before:]


def test_nothing_is_kept_of_a_run_that_is_stopped_before_its_first_batch_is_encoded():
    batch = Batch(np.zeros((2, 3, 8, 8), np.uint8), np.zeros(2, np.int32), np.arange(2))
    batches = (batch for _ in range(1))
    arrays = get_convnet_codes.collect(None, batches, (2, 5), stopped=[signal.SIGINT])
    assert [array.shape for array in arrays] == [(0, 5), (0, 3, 64, 64), (0,)]


def test_interrupt_that_the_shell_has_ignored_stays_ignored(place, long_rec, tmp_path):
    args = [*shlex.split(TINY), "--images", long_rec, "--data-dir", tmp_path]
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, ROOT / SCRIPT, *args]
    command += ["--max-num-images", "2000"]
    process = subprocess.Popen(command, cwd=place.folder, env=script_env(), stdout=subprocess.PIPE)
    while not list(tmp_path.glob("*.idx")):
        time.sleep(0.1)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    process.stdout.close()
    assert process.returncode == 0
    assert len(load_codes(tmp_path, "tiny")[0]) == 2000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_keeps_what_it_collected_as_a_smaller_whole_set(
    number, place, long_rec, tmp_path
):
    save_codes(tmp_path, "tiny", *earlier_set(), DESCRIPTION)
    args = ("--images", long_rec, "--data-dir", tmp_path, "--max-num-images", LONG)
    terminal = Terminal(place.folder, *args, "--batch-size", 3)
    status, shown = terminal.stop(rf" [1-9]\d*/{LONG} ", number)
    assert status == 128 + number and "Traceback" not in shown, terminal.shown
    assert re.search(r"picture/s|s/picture", terminal.shown)  # how fast, and the time left:
    assert re.search(r"\[\d\d:\d\d<\d\d:\d\d, ", terminal.shown)
    found = load_codes(tmp_path, "tiny")
    count = len(assert_belong_to_long(found, place.network))
    assert 0 < count < LONG and count % 3 == 0
    assert f"the {count:,} codes that were there are kept" in shown
    assert f"{count:,} of {LONG:,}" in found[3]["pictures"]
    assert not list(tmp_path.glob("*.part"))


def test_run_stopped_before_the_first_code_leaves_no_files(place, tmp_path):
    # Large enough that the first batch takes seconds.
    large = cv2.imencode(".png", np.zeros((3000, 3000, 3), np.uint8))[1].tobytes()
    rec = write_rec(tmp_path / "large.rec", [large] * 40, range(40))
    args = ("--images", rec, "--data-dir", tmp_path / "data", "--batch-size", 40)
    terminal = Terminal(place.folder, *args)
    status, shown = terminal.stop("there are 40 pictures", signal.SIGINT)
    assert status == 130, terminal.shown
    assert "Traceback" not in shown and "kept" not in shown
    # Nothing but the index of the .rec.
    assert [path.suffix for path in (tmp_path / "data").iterdir()] == [".idx"]


@pytest.fixture(scope="module")
def resnet():
    """Make a ResNet-152 in which every parameter and running statistic tells."""
    rng = np.random.default_rng(1)
    symbol, shapes, branch_ends = build_resnet_152()
    weights = draw_weights(shapes, branch_ends)
    spans = {"_gamma": (0.8, 1.2), "_beta": (-0.1, 0.1), "_bias": (-1, 1)}
    spans.update({"_running_mean": (-0.1, 0.1), "_running_var": (0.7, 1.5)})
    for name, array in weights.items():
        for suffix, span in spans.items():
            if name.endswith(suffix):
                array[...] = rng.uniform(*span, array.shape)
    return weights


@pytest.fixture(scope="module")
def initializers(resnet):
    """Store its parameters as the ONNX model zoo does, with the shape of a Reshape node."""
    tensors = [numpy_helper.from_array(a, f"resnetv27_{name}") for name, a in resnet.items()]
    return [*tensors, numpy_helper.from_array(np.array([0, -1]), "reshape_attr_tensor421")]


def write_onnx(path, initializers):
    graph = helper.make_graph([], "resnet152", [], [], initializer=initializers)
    onnx.save(helper.make_model(graph), str(path))
    return path


def photographs(count, side):
    """Draw pictures, (count, 3, side, side) uint8 RGB."""
    return crops([jpeg for _, _, jpeg in draw_classes(count)], side, side)


def test_resnet_152_read_from_onnx_gives_what_gluons_network_gives(resnet, initializers, tmp_path):
    gluon = vision.resnet152_v2(prefix="resnetv27_")
    for name, parameter in gluon.collect_params().items():
        array = resnet[name[len("resnetv27_") :]]
        parameter.shape = array.shape
        parameter.initialize()
        parameter.set_data(mx.nd.array(array))
    images = photographs(2, 96)
    normal = (images / 255 - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape(
        [0.229, 0.224, 0.225], (3, 1, 1)
    )
    expected = gluon(mx.nd.array(normal)).asnumpy()

    symbol, weights = read_resnet_152(write_onnx(tmp_path / "resnet.onnx", initializers))
    arrays = {name: mx.nd.array(array) for name, array in weights.items()}
    encode = compile_encoder(ConvNet(symbol, arrays, ""), mx.cpu(), (2, 3, 96, 96))
    codes = encode(images)
    assert codes.shape == (2, 1000) and codes.dtype == np.float32
    assert abs(codes - expected).max() < 1e-4 * abs(expected).max()
    assert abs(expected[0] - expected[1]).max() > 0.1 * abs(expected).max()


def _leave_one_out(initializers):
    return [t for t in initializers if t.name != "resnetv27_stage3_batchnorm5_running_var"]


def _add_one(initializers):
    return [*initializers, numpy_helper.from_array(np.ones(3, np.float32), "resnetv27_extra")]


def _add_a_name_twice(initializers):
    return [*initializers, numpy_helper.from_array(np.ones(1000, np.float32), "other_dense0_bias")]


def _turn_one(initializers):
    turned = numpy_helper.from_array(np.ones((2048, 1000), np.float32), "resnetv27_dense0_weight")
    return [turned if t.name == turned.name else t for t in initializers]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (_leave_one_out, "stage3_batchnorm5_running_var"),
        (_add_one, "extra"),
        (_add_a_name_twice, ""),
        (_turn_one, "dense0_weight"),
    ],
)
def test_onnx_file_with_other_parameters_is_refused(change, name, initializers, tmp_path):
    path = write_onnx(tmp_path / "other.onnx", change(initializers))
    with pytest.raises(ScriptError, match=f"other.onnx is another network .*{name}") as raised:
        read_resnet_152(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"<html>not found</html>", None], ids=["html", "truncated"])
def test_file_that_is_no_whole_onnx_file_is_refused(content, initializers, tmp_path):
    path = write_onnx(tmp_path / "damaged.onnx", initializers[:9])
    path.write_bytes(content or path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ScriptError, match="damaged.onnx is damaged, or no ONNX file"):
        read_resnet_152(path)


def test_untrained_weights_let_activations_neither_vanish_nor_explode():
    symbol, shapes, branch_ends = build_resnet_152()
    weights = {name: mx.nd.array(w) for name, w in draw_weights(shapes, branch_ends).items()}
    layers = symbol.get_internals()
    names = layers.list_outputs()
    sums = [[n for n in names if re.match(rf"stage{stage}_.*plus", n)] for stage in (1, 2, 3, 4)]
    assert [len(stage) for stage in sums] == [3, 8, 36, 3]
    watched = ["conv0_fwd_output", *(stage[-1] for stage in sums), names[-1]]
    photos = photographs(4, 128)

    def spread(name):
        layer = mx.sym.flatten(layers[name])
        inputs = layer.list_arguments() + layer.list_auxiliary_states()
        net = ConvNet(layer, {name: weights[name] for name in inputs if name != "data"}, "")
        encode = compile_encoder(net, mx.cpu(), photos.shape)
        return encode(photos).std()

    first, *later = map(spread, watched)
    assert len(later) == 5
    assert max(later) < 3 * first and min(later) > first / 3


def test_untrained_weights_are_the_same_for_a_seed_and_others_for_another():
    shapes = {"conv0_weight": (8, 3, 3, 3), "dense0_weight": (5, 8), "dense0_bias": (5,)}
    one, two, other = (draw_weights(shapes, {"dense0_weight"}, seed) for seed in (3, 3, 4))
    assert {name: array.shape for name, array in one.items()} == shapes
    assert all((one[name] == two[name]).all() for name in shapes)
    assert (one["conv0_weight"] != other["conv0_weight"]).all()


def test_without_a_network_drawn_pictures_and_random_weights_take_their_place_and_say_so(tmp_path):
    result = run_script(
        *(SCRIPT, "--offline", "--max-num-images", 16, "--image-shape", "3,64,64"), cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    weights_notice, pictures_notice = result.stderr.splitlines()
    for word in ("resnet152-v2-7.onnx", "--offline", "random weights", "colour and texture"):
        assert word in weights_notice
    for word in ("imagenette2-320.tgz", "--offline", "drawn pictures"):
        assert word in pictures_notice
    codes, thumbnails, labels, description = load_codes(tmp_path / "data", DEFAULT_MODEL)
    assert codes.shape == (16, 1000) and np.ptp(codes, axis=0).min() > 0
    assert description["class_names"] == list(DRAWN_CLASSES) and len(DRAWN_CLASSES) >= 12
    assert description["weights"].startswith("**Not trained:**")
    assert description["pictures"].startswith("**No photographs:**")
    assert "16 of 2,304" in description["pictures"]

    command = result.stdout.splitlines()[-1].split("python ")[-1]
    plotted = run_script(*shlex.split(command), cwd=tmp_path)
    assert plotted.returncode == 0, plotted.stderr
    text = read_text(read_log(tmp_path / "logs"), "codes_data")
    assert "**Not trained:**" in text and "**No photographs:**" in text
    table = tmp_path / "logs" / "resnet_152_image_codes" / "metadata.tsv"
    names = [description["class_names"][label] for label in labels]
    assert table.read_text().splitlines() == names


class RealRun:
    """The real MobileNet over the 1,000 real pictures, a class each."""

    def __init__(self, real, folder):
        self.lines = (real / "synset.txt").read_text().splitlines()
        self.paths = {
            line: next((real / "imagenet_samples" / line.split()[0]).iterdir())
            for line in self.lines
        }
        self.folder = folder
        shutil.copy(real / "synset.txt", folder)
        self.prefix = real / "mobilenet_v2" / "mobilenet_v2"
        self.codes, self.thumbnails, self.names = self.collect(real / "imagenet_samples")

    def collect(self, images, *args):
        args = ["--model", self.prefix, "--images", images, "--data-dir", self.folder, *args]
        result = run_script(SCRIPT, *args, "--dtype", "float32")
        assert result.returncode == 0, result.stderr
        codes, thumbnails, labels, description = load_codes(self.folder, "mobilenet_v2")
        return codes, thumbnails, [description["class_names"][label] for label in labels]


@pytest.fixture(scope="module")
def real_run(real, tmp_path_factory):
    return RealRun(real, tmp_path_factory.mktemp("real"))


def test_real_network_names_the_class_of_at_least_87_percent_of_the_real_pictures(real_run):
    assert sorted(real_run.names) == sorted(real_run.lines)
    said = [real_run.lines[entry] for entry in real_run.codes.argmax(axis=1)]
    assert np.mean([one == other for one, other in zip(said, real_run.names)]) >= 0.87


def test_thumbnails_are_what_the_network_saw_of_the_real_pictures(real_run):
    for name, thumbnail in zip(real_run.names, real_run.thumbnails):
        (crop,) = crops([real_run.paths[name].read_bytes()], 224, 224)
        # 32 by 32 fields of 7 by 7 pixels each are 2 by 2 pixels of the thumbnail.
        means = crop.reshape(3, 32, 7, 32, 7).mean(axis=(2, 4))
        shrunk = thumbnail.reshape(3, 32, 2, 32, 2).mean(axis=(2, 4))
        assert abs(shrunk - means).max() <= 1


def test_shuffled_rec_made_elsewhere_gives_each_real_picture_the_same_code(real_run, tmp_path):
    order = np.random.default_rng(0).permutation(1000)
    jpegs = (real_run.paths[real_run.lines[label]].read_bytes() for label in order)
    rec = write_rec(tmp_path / "val_256_q90.rec", jpegs, order)
    codes, thumbnails, names = real_run.collect(rec, "--max-num-images", 250, "--seed", 7)
    assert len(set(names)) == 250
    rows = [real_run.names.index(name) for name in names]
    assert abs(codes - real_run.codes[rows]).max() < 1e-3
    assert (thumbnails == real_run.thumbnails[rows]).all()


# Runs a command and prints its peak memory: its own, which a child begins with its parent's.
MEASURE = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def test_memory_grows_by_no_more_than_twice_the_outputs(place, long_rec, tmp_path):
    peaks = {}
    for count in (500, 8000):
        command = [sys.executable, "-c", MEASURE, sys.executable, ROOT / SCRIPT, *shlex.split(TINY)]
        command += ["--images", long_rec, "--data-dir", tmp_path, "--max-num-images", str(count)]
        result = subprocess.run(
            command, capture_output=True, text=True, env=script_env(), cwd=place.folder
        )
        assert result.returncode == 0, result.stderr
        peaks[count] = 1024 * int(result.stdout.splitlines()[-1])
    found = load_codes(tmp_path, "tiny")
    assert len(assert_belong_to_long(found, place.network)) == 8000
    assert peaks[8000] <= peaks[500] + 2 * sum(array.nbytes for array in found[:3])


def test_help_shows_every_default():
    text = run_script(SCRIPT, "--help").stdout
    for default in (2304, DEFAULT_MODEL, "3,224,224", "fc1_output", "auto", 42, "./data"):
        assert re.search(rf"\(default:\s+{re.escape(str(default))}\)", text)
    assert re.search(r"--mean-rgb R G B.*\(default:\s+\(0, 0, 0\)\)", text, re.DOTALL)
