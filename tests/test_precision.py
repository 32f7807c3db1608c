import re
import shutil
import subprocess
import sys

from common.cli import ScriptError
from common.codes import load_codes
from common.models import ConvNet, compile_encoder
from common.precision import PRECISIONS, candidates, make_encoder, mean_cosine

import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, read_log, read_text, run_script, script_env

SHAPE = (3, 32, 32)
COSINE = re.compile(r"^(\w+): .*cosine.* (-?\d\.\d{4})$", re.MULTILINE)


def pictures(count, seed=0):
    """Draw pictures of coarse fields, (count, 3, 32, 32) uint8."""
    fields = np.random.default_rng(seed).integers(256, size=(count, 3, 4, 4), dtype=np.uint8)
    return fields.repeat(8, axis=2).repeat(8, axis=3)


def build_network(loud=False):
    """Build a small network; a loud one has a channel that drowns the others, and no say."""
    pixels = mx.sym.Variable("data") / 255
    maps = mx.sym.Convolution(pixels, kernel=(3, 3), num_filter=8, name="conv0")
    maps = mx.sym.Activation(maps, act_type="relu")
    means = mx.sym.Pooling(maps, kernel=(6, 6), stride=(6, 6), pool_type="avg")
    symbol = mx.sym.FullyConnected(mx.sym.flatten(means), num_hidden=10, name="fc1")
    rng = np.random.default_rng(1)
    shapes, _, _ = symbol.infer_shape(data=(1, *SHAPE))
    shapes = dict(zip(symbol.list_arguments(), shapes))
    del shapes["data"]
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    if loud:
        arrays["conv0_weight"][0] = 1000 * abs(arrays["conv0_weight"][0])
        arrays["fc1_weight"][:, : shapes["fc1_weight"][1] // 8] = 0
    return ConvNet(symbol, {name: mx.nd.array(array) for name, array in arrays.items()}, "made up")


def run_encoder(net, precisions, sample, images):
    encoder = make_encoder(net, precisions, mx.cpu(), (16, *SHAPE), sample)
    batches = [encoder.encode(images[i : i + 16]) for i in range(0, len(images), 16)]
    return encoder, np.concatenate(batches)


def exact_codes(net, images):
    return compile_encoder(net, mx.cpu(), images.shape)(images)


def centred_cosine(codes, others):
    codes, others = codes - codes.mean(axis=0), others - others.mean(axis=0)
    pairs = zip(codes.astype(np.float64), others.astype(np.float64))
    return np.mean([a @ b / np.sqrt(a @ a * (b @ b)) for a, b in pairs])


def test_cosine_is_that_of_codes_less_their_mean():
    codes = np.float32([[1, 9], [3, 9], [2, 8], [2, 10]])
    turned = np.float32([[5, 6], [5, 4], [4, 5], [6, 5]])  # by a right angle, about another mean
    assert mean_cosine(codes, turned) == pytest.approx(0, abs=1e-6)
    assert mean_cosine(codes, codes + 100) == pytest.approx(1)
    assert mean_cosine(codes, -2 * codes) == pytest.approx(-1)
    assert mean_cosine(np.ones((3, 2)), codes[:3]) == 0
    assert mean_cosine(codes[:1], codes[:1]) == pytest.approx(1)
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 64, 30)).astype(np.float32)
    assert mean_cosine(first, second) == pytest.approx(centred_cosine(first, second), abs=1e-6)


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_codes_in_fewer_bits_are_as_like_those_of_float32_as_it_says(precision, capsys):
    net, images = build_network(), pictures(200)
    encoder, codes = run_encoder(net, (precision,), images[:128], images)
    expected = exact_codes(net, images)
    assert encoder.precision == precision
    assert 0.99 < encoder.cosine < 1 and not np.array_equal(codes, expected)
    # The pictures after those that int8 is calibrated on.
    assert encoder.cosine == pytest.approx(
        centred_cosine(codes[64:128], expected[64:128]), abs=1e-6
    )
    assert centred_cosine(codes, expected) > 0.99
    assert COSINE.findall(capsys.readouterr().out) == [(precision, f"{encoder.cosine:.4f}")]


def test_int8_is_calibrated_on_the_first_64_pictures(capsys):
    net, images = build_network(), pictures(128)
    images[1:64] //= 2
    images[63], images[64:] = 255, images[64:] // 2
    ranges = [images[:64], images[:63], images]
    codes = [run_encoder(net, ("int8",), sample, images[64:])[1] for sample in ranges]
    # The range of the brightest picture counts, and only if it is among the first 64.
    assert (codes[0] == codes[2]).all() and (codes[0] != codes[1]).any()


def test_network_gives_the_same_codes_when_another_with_its_weights_is_gone():
    # Large enough for MXNet to rearrange its weights.
    pixels = mx.sym.Variable("data") / 255
    maps = mx.sym.Convolution(pixels, kernel=(3, 3), num_filter=64, no_bias=True, name="conv0")
    maps = mx.sym.Convolution(maps, kernel=(3, 3), num_filter=64, no_bias=True, name="conv1")
    rng = np.random.default_rng(0)
    shapes = {"conv0_weight": (64, 3, 3, 3), "conv1_weight": (64, 64, 3, 3)}
    weights = {name: mx.nd.array(rng.normal(size=shape)) for name, shape in shapes.items()}
    net, images = ConvNet(mx.sym.flatten(maps), weights, ""), pictures(128)
    one = compile_encoder(net, mx.cpu(), (16, *SHAPE))
    expected = one(images[:16])
    encoder = make_encoder(net, ("int8",), mx.cpu(), (16, *SHAPE), images)
    before = encoder.encode(images[:16])
    del one
    clutter = [mx.nd.ones((500, 500)) for _ in range(20)]
    mx.nd.waitall()
    assert (encoder.encode(images[:16]) == before).all() and len(clutter) == 20
    assert centred_cosine(before, expected) > 0.95


def test_float32_is_float32(capsys):
    net, images = build_network(), pictures(20)
    encoder, codes = run_encoder(net, ("float32",), images, images)
    assert (encoder.precision, encoder.cosine) == ("float32", None)
    assert np.allclose(codes, exact_codes(net, images), rtol=1e-5)
    assert capsys.readouterr().out == ""


def test_network_that_int8_ruins_is_noticed_and_done_in_a_more_exact_precision(capsys):
    net, images = build_network(loud=True), pictures(130)
    encoder, codes = run_encoder(net, ("int8", "float32"), images[:128], images)
    assert encoder.precision == "float32"
    assert np.allclose(codes, exact_codes(net, images), rtol=1e-5)
    output = capsys.readouterr()
    ((precision, cosine),) = COSINE.findall(output.out)
    assert precision == "int8" and float(cosine) < 0.97
    (line,) = output.err.splitlines()
    assert "int8 is not good enough" in line and line.endswith("float32")


def test_precision_that_ruins_a_network_is_used_all_the_same_if_asked_for_by_name(capsys):
    images = pictures(128)
    encoder, codes = run_encoder(build_network(loud=True), ("int8",), images, images)
    assert encoder.precision == "int8" and encoder.cosine < 0.97
    assert centred_cosine(codes[64:], exact_codes(build_network(loud=True), images[64:])) < 0.97
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("count", [1, 2, 63, 65, 66, 127])
def test_few_pictures_are_calibrated_on_and_compared_as_far_as_they_go(count):
    net, images = build_network(), pictures(count)
    encoder, codes = run_encoder(net, ("int8", "float32"), images, images)
    assert encoder.precision == "int8" and encoder.cosine > 0.99
    assert np.isfinite(codes).all() and codes.shape == (count, 10)


@pytest.mark.parametrize(("name", "wrong"), [("cpu", ["float16"]), ("gpu", ["int8", "bfloat16"])])
def test_precision_of_another_device_is_a_wrong_argument(name, wrong):
    ctx = mx.Context(name)
    for precision in PRECISIONS:
        if precision in wrong:
            with pytest.raises(ScriptError, match=f"--dtype.*{precision}") as raised:
                candidates(precision, ctx)
            assert raised.value.status == 2
        else:
            assert candidates(precision, ctx) == (precision,)


def test_gpu_tries_float16_first():
    assert candidates("auto", mx.Context("gpu")) == ("float16", "float32")


def run_on_processor(flags, folder, *command):
    """Run Python where Linux says that the processor has these flags."""
    lines = "".join(f"processor\t: {n}\nflags\t\t: {' '.join(flags)}\n\n" for n in range(2))
    (folder / "cpuinfo").write_text(lines)
    mount = f"mount --bind {folder / 'cpuinfo'} /proc/cpuinfo"
    shell = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable]
    if subprocess.run([*shell[:4], mount], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file over /proc/cpuinfo")
    command = [*shell, *map(str, command)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=script_env())


SHOW = """
from common.precision import candidates
import mxnet as mx
print(*candidates("auto", mx.cpu()))
"""


@pytest.mark.parametrize(
    ("flags", "tried"),
    [
        (["sse4_2"], "float32"),
        (["avx512f", "avx512_vnni", "amx_tile"], "int8 float32"),
    ],
)
def test_only_what_the_processor_is_fast_in_is_tried(flags, tried, tmp_path):
    result = run_on_processor(flags, tmp_path, "-c", SHOW)
    assert (result.returncode, result.stdout.strip()) == (0, tried), result.stderr


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    net = build_network()
    mx.model.save_checkpoint(str(folder / "tiny"), 0, net.symbol, net.parameters, {})
    records = mx.recordio.MXRecordIO(str(folder / "pictures.rec"), "w")
    for number, picture in enumerate(pictures(150)):
        header = mx.recordio.IRHeader(0, number % 3, number, 0)
        pixels = np.ascontiguousarray(picture.transpose(1, 2, 0)[..., ::-1])
        records.write(mx.recordio.pack_img(header, pixels, img_fmt=".png"))
    records.close()
    return folder


def arguments(checkpoint, data_dir, *more):
    command = ["get_convnet_codes.py", "--model", checkpoint / "tiny", "--image-shape", "3,32,32"]
    command += ["--images", checkpoint / "pictures.rec", "--max-num-images", 150, "--offline"]
    return [*command, "--data-dir", data_dir, *more]


def test_processor_without_fast_integers_does_everything_in_float32(checkpoint, tmp_path):
    script, *args = arguments(checkpoint, tmp_path / "data")
    result = run_on_processor(["sse4_2"], tmp_path, ROOT / script, *args)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert "cosine" not in result.stdout
    codes, _, _, description = load_codes(tmp_path / "data", "tiny")
    assert description["precision"] == "float32" and description["cosine"] is None
    assert len(codes) == 150


def test_cosine_is_printed_kept_and_logged_and_that_of_the_codes_that_are_kept(
    checkpoint, tmp_path
):
    found = {}
    for precision in ("float32", "int8"):
        result = run_script(*arguments(checkpoint, tmp_path / precision, "--dtype", precision))
        assert result.returncode == 0 and result.stderr == "", result.stderr
        found[precision] = load_codes(tmp_path / precision, "tiny")
    description = found["int8"][3]
    assert description["precision"] == "int8"
    codes, expected = found["int8"][0], found["float32"][0]
    assert (found["int8"][2] == found["float32"][2]).all()
    cosine = centred_cosine(codes[64:128], expected[64:128])
    assert description["cosine"] == pytest.approx(cosine, abs=1e-6) and cosine < 1
    assert ("int8", f"{description['cosine']:.4f}") in COSINE.findall(result.stdout)

    args = ("--model", "tiny", "--data-dir", tmp_path / "int8", "--logdir", tmp_path / "logs")
    assert run_script("plot_convnet_embedding.py", *args).returncode == 0
    text = read_text(read_log(tmp_path / "logs"), "codes_data")
    assert f"int8; the mean cosine of its codes with those of float32 is {cosine:.4f}" in text


def test_float16_on_a_cpu_ends_in_one_line_before_anything_is_read(checkpoint, tmp_path):
    args = arguments(checkpoint, tmp_path / "data", "--dtype", "float16", "--ctx", "cpu")
    assert_one_line_error(run_script(*args), 2, "--dtype", "float16")
    assert not (tmp_path / "data").exists()


@pytest.fixture(scope="module")
def real_codes(real, tmp_path_factory):
    """Collect the codes of the 1,000 real pictures in each precision of a CPU."""
    folder = tmp_path_factory.mktemp("real")
    shutil.copy(real / "synset.txt", folder)
    classes = (real / "synset.txt").read_text().splitlines()
    found = {}
    for precision in ("float32", "int8", "bfloat16"):
        args = ["--model", real / "mobilenet_v2" / "mobilenet_v2", "--data-dir", folder]
        args += ["--images", real / "imagenet_samples", "--dtype", precision]
        result = run_script("get_convnet_codes.py", *args)
        assert result.returncode == 0, result.stderr
        codes, _, labels, description = load_codes(folder, "mobilenet_v2")
        right = [classes.index(description["class_names"][label]) for label in labels]
        accuracy = np.mean(codes.argmax(axis=1) == right)
        found[precision] = codes, accuracy, description["cosine"], result.stdout
    return found


@pytest.mark.parametrize(("precision", "lowest"), [("int8", 0.86), ("bfloat16", 0.868)])
def test_real_network_keeps_its_accuracy_and_tells_its_cosine(precision, lowest, real_codes):
    codes, accuracy, cosine, output = real_codes[precision]
    expected = real_codes["float32"][0]
    assert accuracy >= lowest
    assert cosine == pytest.approx(centred_cosine(codes[64:128], expected[64:128]), abs=1e-5)
    assert (precision, f"{cosine:.4f}") in COSINE.findall(output)
    assert cosine > {"int8": 0.97, "bfloat16": 0.998}[precision]
