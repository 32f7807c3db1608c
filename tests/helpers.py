"""What the tests share: scripts run here or in a process, TensorBoard's own reader, test data."""

import contextlib
import fcntl
import importlib
import itertools
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from unittest import mock

import mxcompat
from mxcompat.old_downloads import MNIST

import cv2
import mxnet as mx
import numpy as np
import pytest
from mxnet import sym
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common import synthetic
from common.codes import Description
from common.errors import ScriptError

ROOT = Path(__file__).parent.parent
# Every point of every series, not TensorBoard's sample of them.
EVERYTHING = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0, "graph": 0}
# A port nobody listens on: of public addresses none can be reached.
NOBODY = "http://127.0.0.1:9"
NO_NETWORK = {"HTTP_PROXY": NOBODY, "HTTPS_PROXY": NOBODY, "NO_PROXY": "127.0.0.1,localhost"}
PETS = ["bird"] * 2 + ["cat"] * 6 + ["dog"] * 5


def to_ndarray(array):
    return mx.nd.array(array, dtype=array.dtype)


EVERY_ARRAY = pytest.mark.parametrize(
    "to_array",
    [np.array, to_ndarray, np.ndarray.tolist, tuple, lambda array: [*to_ndarray(array)]],
    ids=["numpy", "ndarray", "list", "tuple", "list of ndarrays"],
)


def script_env(**variables):
    env = {**os.environ, **NO_NETWORK, **variables}
    return {name: value for name, value in env.items() if value is not None}


def run(*command, env=None, **options):
    """Run a command to its end; return its exit status and what it printed."""
    options = {"capture_output": True, "text": True, "timeout": 600, "cwd": ROOT, **options}
    return subprocess.run(command, env=script_env(**(env or {})), **options)


def run_python(code, *args, **options):
    """Run a program, given as text, in another process."""
    return run(sys.executable, "-c", code, *args, **options)


def run_main(script, *args):
    """Run a script's main in this process; an error is raised."""
    argv, sys.argv = sys.argv, [script, *map(str, args)]
    try:
        importlib.import_module(script[: -len(".py")]).main()
    finally:
        sys.argv = argv


@contextlib.contextmanager
def script_ends(status, words):
    """Expect an error that ends a script with this status, and with one line that matches."""
    with pytest.raises((ScriptError, OSError), match=words) as raised:
        yield
    assert getattr(raised.value, "status", 1) == status and "\n" not in str(raised.value)


def start_in_terminal(command, **options):
    """Start a program in a terminal of 24 x 100; return it, and what it shows, piece by piece."""
    try:
        terminal, process_end = pty.openpty()
    except OSError as error:
        pytest.skip(f"needs a terminal: {error}")
    fcntl.ioctl(process_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    streams = {"stdout": process_end, "stderr": process_end, "env": script_env()}
    process = subprocess.Popen(command, **streams, **options)
    os.close(process_end)

    def read():
        try:
            return os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # The program has closed its end.
            return ""

    return process, iter(read, "")


def contents(folder):
    """Return what the files of a folder hold, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def find(folder, name):
    """Return the only file of a name in the folders of a folder, as an embedding's files are."""
    (path,) = folder.glob(f"*/{name}")
    return path


def files_of(folder):
    """Return what all files in a folder hold, at any depth."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_log(logdir):
    log = EventAccumulator(str(logdir), EVERYTHING)
    log.Reload()
    return log


def values(log, tag):
    return [event.value for event in log.Scalars(tag)]


def read_text(log, tag):
    (event,) = log.Tensors(tag)
    return event.tensor_proto.string_val[0].decode()


def decode(image):
    """Decode a logged picture to (H, W, 3) uint8 RGB."""
    return decode_png(image.encoded_image_string)


def decode_png(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


def grid(batch, columns=8):
    """Lay out (N, C, H, W) pictures by hand, with 2 black pixels around each."""
    count, _, height, width = batch.shape
    rows = -(-count // columns)
    sheet = np.zeros((rows * (height + 2) + 2, columns * (width + 2) + 2, 3), batch.dtype)
    for index, item in enumerate(batch):
        top, left = 2 + index // columns * (height + 2), 2 + index % columns * (width + 2)
        sheet[top : top + height, left : left + width] = item.transpose(1, 2, 0)
    return sheet


def stretch(batch):
    """Stretch each item to [0, 255]; one that is all the same becomes 0."""
    low = batch.min(axis=(1, 2, 3), keepdims=True)
    spread = batch.max(axis=(1, 2, 3), keepdims=True) - low
    return 255 * np.divide(batch - low, spread, out=np.zeros_like(batch), where=spread > 0)


def convolve(picture, weight, bias=0, mean_rgb=(0, 0, 0)):
    """Correlate a (3, H, W) picture with (F, 3, h, w) filters, where they lie wholly on it."""
    pixels = picture - np.float32(mean_rgb)[:, None, None]
    windows = np.lib.stride_tricks.sliding_window_view(pixels, weight.shape[2:], axis=(1, 2))
    maps = np.einsum("chwij,fcij->fhw", windows, weight, optimize=True)
    return (maps + np.reshape(bias, (-1, 1, 1)))[:, None]


def assert_same_picture(shown, expected):
    assert shown.shape == expected.shape
    assert abs(shown.astype(float) - expected).max() <= 1


def paint(count, seed=0):
    """Paint (count, 32, 69, 3) pictures of colored fields, each its own."""
    fields = np.random.default_rng(seed).integers(256, size=(count, 4, 8, 3), dtype=np.uint8)
    return np.array([cv2.resize(e, (69, 32), interpolation=cv2.INTER_NEAREST) for e in fields])


def idx(array):
    """Return a uint8 array as a file of MNIST's, unpacked."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_digits(folder):
    """Write 6,000 drawn digits to train on and 1,000 to test with where a script finds MNIST."""
    folder.mkdir()
    with mock.patch.object(synthetic, "DIGIT_COUNTS", (6000, 1000)):
        arrays = itertools.chain(*synthetic.draw_mnist())
    for name, array in zip(MNIST, arrays):
        (folder / name).with_suffix("").write_bytes(idx(array.astype(np.uint8)))


def encode(rgb, suffix=".png"):
    return cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()


def centers(pictures):
    """Cut out the centers, (N, 3, 32, 48)."""
    return pictures[:, :, 10:58].transpose(0, 3, 1, 2)


def write_folder(folder, contents, names):
    for number, (content, name) in enumerate(zip(contents, names)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{number:02}.png").write_bytes(content)
    return folder


def write_records(path, contents, keys=()):
    """Write a RecordIO file, with its index if there are keys."""
    index_path = path.with_suffix(".idx")
    records = mx.recordio.MXIndexedRecordIO(str(index_path), str(path), "w")
    for number, content in enumerate(contents):
        records.write_idx(keys[number] if keys else number, content)
    records.close()
    if not keys:
        index_path.unlink()
    return path


def write_rec(path, contents, labels, index=False):
    """Write a RecordIO file of contents with labels, with or without its index."""
    headers = [mx.recordio.IRHeader(0, label, number, 0) for number, label in enumerate(labels)]
    packed = [mx.recordio.pack(*pair) for pair in zip(headers, contents)]
    return write_records(path, packed, range(len(packed)) if index else ())


def draw_params(symbol, image_shape, seed=0):
    """Draw the parameters of a network at random."""
    shapes, _, states = symbol.infer_shape_partial(data=(1, *image_shape))
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    rng, params = np.random.default_rng(seed), {}
    for name, shape in zip(names, shapes + states):
        if name != "data" and not name.endswith("label"):
            signs = rng.choice([-1, 1], shape) if name.endswith("weight") else 1
            params[name] = mx.nd.array(rng.uniform(0.5, 2, shape) * signs)
    return params


def forward(symbol, params, images):
    """Return the output of MXNet's plain executor, which fuses nothing."""
    with mock.patch.dict(os.environ, MXNET_SUBGRAPH_BACKEND="NONE"):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=images.shape)
    executor.copy_params_from(params, params, allow_extra_params=True)
    return executor.forward(is_train=False, data=mx.nd.array(images))[0].asnumpy()


class TinyNetwork:
    """A small network for 3,32,48 whose codes are 7 numbers.

    It mixes the colors of each pixel, and takes the means of 8 x 8 fields and the maximum of all.
    """

    def __init__(self, seed=12):
        data = sym.var("data")
        mixed = sym.Convolution(data, kernel=(1, 1), num_filter=4, no_bias=True, name="conv0")
        mixed = sym.BatchNorm(mixed, fix_gamma=False, eps=1e-4, name="bn0")
        means = sym.Pooling(mixed, kernel=(8, 8), stride=(8, 8), pool_type="avg", name="pool0")
        highest = sym.Pooling(mixed, kernel=(1, 1), global_pool=True, pool_type="max", name="pool1")
        means, highest = sym.flatten(means, name="flatten0"), sym.flatten(highest, name="all")
        row = sym.concat(means, highest, name="concat0")
        codes = sym.FullyConnected(row, num_hidden=7, name="fc1")
        self.symbol = sym.SoftmaxOutput(codes, name="softmax")
        self.params = draw_params(self.symbol, (3, 32, 48), seed)

    def save(self, folder, number=0, **changes):
        """Save a checkpoint, some arrays changed or, if None, left out; return its prefix."""
        folder.mkdir(parents=True, exist_ok=True)
        params = {**self.params, **changes}
        params = {name: mx.nd.array(a) for name, a in params.items() if a is not None}
        states = {name: params.pop(name) for name in list(params) if "moving" in name}
        mx.model.save_checkpoint(str(folder / "tiny"), number, self.symbol, params, states)
        return folder / "tiny"

    def codes(self, pixels, layer="fc1_output"):
        codes = forward(self.symbol.get_internals()[layer], self.params, pixels)
        return codes.reshape(len(pixels), -1)


def make_codes(count=50, seed=0, **changes):
    """Make codes in three clusters, thumbnails of one color each, labels, a description."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    codes = 3 * rng.normal(size=(3, 20))[labels] + rng.normal(size=(count, 20))
    thumbnails = np.empty((count, 3, 64, 64), np.uint8)
    thumbnails[:] = rng.integers(0, 256, (count, 3, 1, 1))
    known = {
        "class_names": ["n02102040 English springer", "n03028079 church", "garbage truck"],
        "pictures": "colored squares",
        "weights": "made up",
        "precision": "float32",
        "cosine": None,
        "seed": seed,
        "is_output": False,
        "trained": True,
        "output_names": [],
    }
    return codes.astype(np.float32), thumbnails, labels, Description(**{**known, **changes})
