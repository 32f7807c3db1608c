import cv2
import helpers
import mxnet as mx
import numpy as np
import pytest
from helpers import assert_same_picture, convolve, decode, grid, read_log, read_text, stretch

from common.pictures import to_gray
from common.synthetic import draw_filters, draw_picture

SCRIPT = "plot_filter_and_output.py"
LAYERS = {
    "inception_bn_conv_1": (7, True, (123.68, 116.779, 103.939)),
    "resnet_152_conv0": (7, False, (0, 0, 0)),
    "vgg16_conv1_1": (3, True, (0, 0, 0)),
}


def shown_in(logdir):
    """Return the pictures of a log by their tags, and what it says they are."""
    log = read_log(logdir)
    shown = {tag: decode(log.Images(tag)[0]) for tag in log.Tags()["images"]}
    return shown, read_text(log, "filters_data")


def assert_shows(logdir, picture, layers):
    """Check the seven pictures, layers being (weight, bias, mean) by name; return the text."""
    shown, text = shown_in(logdir)
    assert (shown.pop("swan") == picture.transpose(1, 2, 0)).all()
    for layer, (weight, bias, mean_rgb) in layers.items():
        assert_same_picture(shown.pop(f"{layer}_weight"), grid(stretch(weight)))
        maps = convolve(picture, weight, bias, mean_rgb)
        assert_same_picture(shown.pop(f"{layer}_output"), grid(stretch(maps)))
    assert not shown
    return text


def test_all_seven_pictures_are_those_of_the_published_arithmetic(real, call, tmp_path):
    printed = call(SCRIPT, "--data-dir", real / "filters")
    assert printed.err == "" and "tensorboard --logdir ./logs" in printed.out
    arrays = {path.stem: mx.nd.load(str(path))[0].asnumpy() for path in real.glob("filters/*")}
    layers = {
        name: (arrays[f"{name}_weight"], arrays[f"{name}_bias"] if has_bias else 0, mean)
        for name, (_, has_bias, mean) in LAYERS.items()
    }
    text = assert_shows(tmp_path / "logs", arrays["imagenet_swan"], layers)
    assert "swan" in text and "VGG16 learned" in text


def test_files_that_are_missing_are_fetched(real, http_folder, call, tmp_path, monkeypatch):
    url, got = http_folder(real / "filters")
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", url)
    with pytest.warns(UserWarning, match="fetching"):
        call(SCRIPT)
    assert len(got) == 6
    assert call(SCRIPT, "--offline").err == ""


def test_without_a_network_everything_is_drawn_and_says_so(call, tmp_path):
    printed = call(SCRIPT, "--offline", "--logdir", "here")
    assert "tensorboard --logdir here\n" in printed.out
    filters_line, picture_line = printed.err.splitlines()
    assert printed.err.count("(--offline)") == 2
    assert "vgg16_conv1_1_bias.param" in filters_line and "synthetic filters" in filters_line
    assert "imagenet_swan.ndarray" in picture_line and "synthetic picture" in picture_line
    layers = {
        name: (draw_filters(kernel, seed), 0, mean)
        for seed, (name, (kernel, _, mean)) in enumerate(LAYERS.items())
    }
    text = assert_shows(tmp_path / "here", draw_picture(224), layers)
    assert "**No photograph:**" in text and "**Not trained:**" in text


def save_checkpoint(folder, weight):
    data, options = mx.sym.Variable("data"), {"no_bias": True, "num_filter": len(weight)}
    look = mx.sym.Convolution(data, name="look", kernel=weight.shape[2:], **options)
    mx.model.save_checkpoint(str(folder / "net"), 0, look, {"look_weight": mx.nd.array(weight)}, {})
    return folder / "net"


@pytest.fixture
def photo(tmp_path):
    """Write a picture of soft noise, photo.png; return it, (3, 224, 224)."""
    pixels = np.random.default_rng(0).integers(0, 200, (224, 224, 3), np.uint8)
    pixels = cv2.GaussianBlur(pixels, (5, 5), 2)
    cv2.imwrite(str(tmp_path / "photo.png"), pixels)
    return pixels[:, :, ::-1].transpose(2, 0, 1)


def test_own_picture_and_checkpoint_are_shown_flat_maps_in_black(photo, call, tmp_path):
    weight = np.zeros((3, 3, 1, 1), np.float32)
    weight[0] = weight[1, 0] = 1
    # The mean shifts each map as a whole, so that it is not to be seen.
    args = "--image", "photo.png", "--mean-rgb", 10, 20.5, 30, "--std-rgb", 1, 2, 4
    call(SCRIPT, *args, "--model", save_checkpoint(tmp_path, weight))
    shown, text = shown_in(tmp_path / "logs")
    assert text.startswith("The picture is `photo.png`.\n\nThe filters are `look` of `")
    assert (shown.pop("photo") == photo.transpose(1, 2, 0)).all()
    assert_same_picture(shown.pop("look_weight"), grid(stretch(weight), 3))
    maps = stretch(convolve(np.float32(photo / np.reshape([1, 2, 4], (3, 1, 1))), weight))
    assert_same_picture(shown.pop("look_output"), grid(maps, 3))
    assert not shown and not maps[2].any()


@pytest.mark.parametrize("channels", [3, 1])
def test_network_of_a_checkpoint_is_the_graph_of_a_run_of_its_own(channels, photo, call, tmp_path):
    weight = np.ones((8, channels, 5, 5), np.float32)
    prefix = save_checkpoint(tmp_path, weight)
    call(SCRIPT, "--model", prefix, "--layer", "look", "--image", "photo.png")
    nodes = read_log(tmp_path / "logs" / "net").Graph().node
    shapes = [node.attr["_output_shapes"].list.shape[0] for node in nodes]
    assert {node.name: [dim.size for dim in shape.dim] for node, shape in zip(nodes, shapes)} == {
        "data": [1, channels, 224, 224],
        "look/weight": [8, channels, 5, 5],
        "look/look": [1, 8, 220, 220],
    }
    assert not read_log(tmp_path / "logs").Tags()["graph"]
    maps = convolve(photo if channels == 3 else to_gray(photo), weight, 0, (0,) * channels)
    shown, _ = shown_in(tmp_path / "logs")
    assert_same_picture(shown["look_output"], grid(stretch(maps)))


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ("--layer conv0", 2, "--model PREFIX"),
        ("--mean-rgb 1 2 3", 2, "--model PREFIX"),
        ("--model net --layer conv0", 2, "argument --layer: conv0 is no convolution"),
        ("--model net --mean-rgb 1 2", 2, "argument --mean-rgb: 2 numbers for"),
        ("--model nowhere", 1, "nowhere-symbol.json is missing"),
        ("--ctx gpu", 1, "no GPU"),
        ("--logdir net-symbol.json --model nowhere", 1, "File exists: 'net-symbol.json'"),
        ("--image net-symbol.json", 1, "net-symbol.json is not a picture"),
        ("--data-dir damaged", 1, "imagenet_swan.ndarray is damaged"),
    ],
)
def test_bad_input_is_named_and_nothing_is_logged(arguments, status, words, call, tmp_path):
    save_checkpoint(tmp_path, np.ones((8, 3, 5, 5), np.float32))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "imagenet_swan.ndarray").write_bytes(b"half")
    with helpers.script_ends(status, words):
        call(SCRIPT, "--offline", *arguments.split())
    assert not list(tmp_path.glob("logs/*"))
