"""What the tests share: scripts run here or in a process, TensorBoard's own reader, test data."""

import fcntl
import importlib
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import mxcompat

import cv2
import mxnet as mx
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.codes import Description

ROOT = Path(__file__).parent.parent
# Every point of every series, not TensorBoard's sample of them.
EVERYTHING = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0, "graph": 0}
# A port nobody listens on: public addresses cannot be reached, those on this machine can.
NO_NETWORK = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
PETS = ["bird"] * 2 + ["cat"] * 6 + ["dog"] * 5


def script_env(**variables):
    env = {**os.environ, **NO_NETWORK, "NO_PROXY": "127.0.0.1,localhost", **variables}
    return {name: value for name, value in env.items() if value is not None}


def run_script(script, *args, env=None, timeout=240, **options):
    """Run a script to its end in a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=script_env(**(env or {})),
        **options,
    )


def run_main(script, *args):
    """Run a script's main in this process; an error is raised."""
    argv, sys.argv = sys.argv, [script, *map(str, args)]
    try:
        importlib.import_module(script[: -len(".py")]).main()
    finally:
        sys.argv = argv


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


def assert_one_line_error(result, status, *words):
    assert result.returncode == status, result.stderr
    lines = result.stderr.strip().splitlines()
    errors = [line for line in lines if "error: " in line]
    assert len(errors) == 1 and lines[-1] == errors[0], result.stderr
    assert "Traceback" not in result.stderr and "usage:" not in result.stderr
    for word in words:
        assert word in errors[0]


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "cut": lambda content: content[:-10],
    "flipped": lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
    "text": lambda content: b"hello, world\n" * 99,
}


def damage(path, how):
    path.write_bytes(DAMAGES[how](path.read_bytes()))


def paint(count, height=32, width=69, seed=0):
    """Paint (count, H, W, 3) pictures of colored fields, each its own."""
    fields = np.random.default_rng(seed).integers(256, size=(count, 4, 8, 3), dtype=np.uint8)
    size = (width, height)
    return np.array([cv2.resize(each, size, interpolation=cv2.INTER_NEAREST) for each in fields])


def encode(rgb, suffix=".png"):
    return cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()


def centers(pictures, width=48):
    """Cut out the centers, (N, 3, H, width)."""
    left = (pictures.shape[2] - width) // 2
    return pictures[:, :, left : left + width].transpose(0, 3, 1, 2)


def write_folder(folder, contents, names):
    for number, (content, name) in enumerate(zip(contents, names)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{number:02}.png").write_bytes(content)
    return folder


def write_rec(path, contents, labels, index=False):
    """Write a RecordIO file as another program would."""
    if index:
        records = mx.recordio.MXIndexedRecordIO(str(path.with_suffix(".idx")), str(path), "w")
    else:
        records = mx.recordio.MXRecordIO(str(path), "w")
    for number, (content, label) in enumerate(zip(contents, labels)):
        if isinstance(label, np.ndarray):  # which MXNet cannot pack with NumPy 2
            record = struct.pack("IfQQ", len(label), 0, number, 0) + label.tobytes() + content
        else:
            record = mx.recordio.pack(mx.recordio.IRHeader(0, label, number, 0), content)
        records.write_idx(number, record) if index else records.write(record)
    records.close()
    return path


class TinyNetwork:
    """A small network for 3,32,48 whose codes of 7 numbers NumPy can compute too.

    It mixes the colors of each pixel, and takes the means of 8 x 8 fields and the maximum of all.
    """

    def __init__(self, seed=12):
        rng = np.random.default_rng(seed)
        shapes = {
            "arg:conv0_weight": (4, 3, 1, 1),
            "arg:bn0_gamma": (4,),
            "arg:bn0_beta": (4,),
            "aux:bn0_moving_mean": (4,),
            "aux:bn0_moving_var": (4,),
            "arg:fc1_weight": (7, 4 * (4 * 6 + 1)),
            "arg:fc1_bias": (7,),
        }
        self.arrays = {name: rng.uniform(0.5, 2, shape) for name, shape in shapes.items()}
        for name in ("arg:conv0_weight", "arg:fc1_weight"):
            self.arrays[name] *= rng.choice([-1, 1], shapes[name])

    def save(self, folder, number=0, dtype="float32", **changes):
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
        codes = mx.sym.FullyConnected(row, num_hidden=7, name="fc1")
        mx.sym.SoftmaxOutput(codes, name="softmax").save(str(folder / "tiny-symbol.json"))
        arrays = {name: changes.get(name.split(":")[1], a) for name, a in self.arrays.items()}
        arrays = {
            name: mx.nd.array(array, dtype=dtype)
            for name, array in arrays.items()
            if array is not None
        }
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


def make_codes(count=50, seed=0, **changes):
    """Make codes in three clusters, thumbnails in a color of their own, labels, a description."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    codes = 3 * rng.normal(size=(3, 20))[labels] + rng.normal(size=(count, 20))
    thumbnails = np.empty((count, 3, 64, 64), np.uint8)
    thumbnails[:] = rng.integers(0, 256, (count, 3, 1, 1))
    description = Description(
        class_names=["n02102040 English springer", "n03028079 church", "garbage truck"],
        pictures="colored squares",
        weights="made up",
        is_output=False,
        trained=True,
        output_names=[],
        precision="float32",
        cosine=None,
        seed=seed,
    )
    return codes.astype(np.float32), thumbnails, labels, description._replace(**changes)
