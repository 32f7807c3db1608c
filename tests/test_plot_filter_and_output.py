import shutil

import cv2
import mxnet as mx
import numpy as np
import pytest
from helpers import (
    assert_same_picture,
    contents,
    convolve,
    damage,
    decode,
    grid,
    read_log,
    read_text,
    run_script,
    stretch,
)

from common.errors import ScriptError
from common.pictures import to_gray
from common.synthetic import draw_filters, draw_picture

SCRIPT = "plot_filter_and_output.py"
LAYERS = {
    "inception_bn_conv_1": (7, True, (123.68, 116.779, 103.939)),
    "resnet_152_conv0": (7, False, (0, 0, 0)),
    "vgg16_conv1_1": (3, True, (0, 0, 0)),
}


def shown_in(logdir):
    log = read_log(logdir)
    return {tag: decode(log.Images(tag)[0]) for tag in log.Tags()["images"]}


def test_all_seven_pictures_are_those_of_the_published_arithmetic(real, call, tmp_path):
    printed = call(SCRIPT, "--data-dir", real / "filters")
    assert printed.err == "" and "tensorboard --logdir ./logs" in printed.out
    shown = shown_in(tmp_path / "logs")
    arrays = {path.name: mx.nd.load(str(path))[0].asnumpy() for path in real.glob("filters/*")}
    swan = arrays["imagenet_swan.ndarray"]
    assert (shown.pop("swan") == swan.transpose(1, 2, 0)).all()
    for name, (_, has_bias, mean_rgb) in LAYERS.items():
        weight = arrays[f"{name}_weight.param"]
        bias = arrays[f"{name}_bias.param"] if has_bias else 0
        assert_same_picture(shown.pop(f"{name}_weight"), grid(stretch(weight)))
        maps = convolve(swan, weight, bias, mean_rgb)
        assert_same_picture(shown.pop(f"{name}_output"), grid(stretch(maps)))
    assert not shown
    text = read_text(read_log(tmp_path / "logs"), "filters_data")
    assert "swan" in text and "VGG16 learned" in text


def test_files_that_are_missing_are_fetched(real, http_folder, call, tmp_path, monkeypatch):
    url, got = http_folder(real / "filters")
    monkeypatch.setenv("MXBOARD_DEMO_MIRROR", url)
    with pytest.warns(UserWarning, match="fetching"):
        call(SCRIPT)
    assert len(got) == len(contents(tmp_path / "data")) == 6
    assert call(SCRIPT, "--offline").err == ""


def test_without_a_network_everything_is_drawn_and_says_so(tmp_path):
    result = run_script(SCRIPT, "--offline", "--logdir", "here", cwd=tmp_path)
    assert result.returncode == 0 and "tensorboard --logdir here\n" in result.stdout
    filters_line, picture_line = result.stderr.splitlines()
    assert "vgg16_conv1_1_bias.param" in filters_line and "synthetic filters" in filters_line
    assert "imagenet_swan.ndarray" in picture_line and "synthetic picture" in picture_line
    text = read_text(read_log(tmp_path / "here"), "filters_data")
    assert "**No photograph:**" in text and "**Not trained:**" in text
    shown = shown_in(tmp_path / "here")
    picture = draw_picture(224)
    assert (shown["swan"] == picture.transpose(1, 2, 0)).all() and len(shown) == 7
    for seed, (name, (kernel, _, mean_rgb)) in enumerate(LAYERS.items()):
        filters = draw_filters(kernel, seed)
        assert_same_picture(shown[f"{name}_weight"], grid(stretch(filters)))
        maps = convolve(picture, filters, 0, mean_rgb)
        assert_same_picture(shown[f"{name}_output"], grid(stretch(maps)))


def save_checkpoint(folder, weight):
    data, options = mx.sym.Variable("data"), {"no_bias": True, "num_filter": len(weight)}
    look = mx.sym.Convolution(data, name="look", kernel=weight.shape[2:], **options)
    mx.model.save_checkpoint(str(folder / "net"), 0, look, {"look_weight": mx.nd.array(weight)}, {})
    return folder / "net"


@pytest.fixture
def photo(tmp_path):
    """Write a picture of soft noise with one bright spot."""
    pixels = np.random.default_rng(0).integers(0, 200, (224, 224, 3), np.uint8)
    pixels = cv2.GaussianBlur(pixels, (5, 5), 2)
    pixels[100, 150] = 255
    cv2.imwrite(str(tmp_path / "photo.png"), pixels)
    return pixels[:, :, ::-1]


def test_filter_k_stands_where_feature_map_k_stands(photo, call, tmp_path):
    weight = np.random.default_rng(1).normal(0, 0.01, (64, 3, 5, 5)).astype(np.float32)
    # Filter 21, third row, sixth column, sees nothing but the red of its lower right pixel.
    weight[21] = 0
    weight[21, 0, 4, 4] = 1
    call(SCRIPT, "--image", "photo.png", "--model", save_checkpoint(tmp_path, weight))
    text = read_text(read_log(tmp_path / "logs"), "filters_data")
    assert (
        text
        == f"The picture is `photo.png`.\n\nThe filters are `look` of `{tmp_path}/net-0000.params`."
    )
    shown = shown_in(tmp_path / "logs")
    assert set(shown) == {"photo", "look_weight", "look_output"}
    cell = shown["look_weight"][2 + 2 * 7 :, 2 + 5 * 7 :][:5, :5]
    assert cell[4, 4, 0] == 255 and cell.sum() == 255
    output = shown["look_output"][2 + 2 * 222 :, 2 + 5 * 222 :][:220, :220, 0].astype(int)
    red = photo[4:, 4:, 0].astype(int)
    assert abs(output - 255 * (red - red.min()) / np.ptp(red)).max() <= 1
    assert output[100 - 4, 150 - 4] == 255


def test_filter_and_map_that_are_all_the_same_are_black(photo, call, tmp_path):
    weight = np.zeros((3, 3, 1, 1), np.float32)
    weight[0] = weight[1, 0] = 1
    # The mean shifts each map as a whole, so that it is not to be seen.
    mean = ("--mean-rgb", 10, 20.5, 30, "--std-rgb", 1, 2, 4)
    call(SCRIPT, "--image", "photo.png", "--model", save_checkpoint(tmp_path, weight), *mean)
    shown = shown_in(tmp_path / "logs")
    assert_same_picture(shown["look_weight"], grid(stretch(weight), 3))
    pixels = photo.transpose(2, 0, 1) / np.reshape([1, 2, 4], (3, 1, 1))
    maps = convolve(pixels.astype(np.float32), weight)
    assert_same_picture(shown["look_output"], grid(stretch(maps), 3))
    assert not stretch(maps)[2].any()


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
    picture = photo.transpose(2, 0, 1) if channels == 3 else to_gray(photo.transpose(2, 0, 1))
    maps = stretch(convolve(picture, weight, 0, (0,) * channels))
    assert_same_picture(shown_in(tmp_path / "logs")["look_output"], grid(maps))


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ("--layer conv0", 2, "--model PREFIX"),
        ("--mean-rgb 1 2 3", 2, "--model PREFIX"),
        ("--std-rgb 1 2 3", 2, "--model PREFIX"),
        ("--model net --layer conv0", 2, "argument --layer: conv0 is no convolution"),
        ("--model net --mean-rgb 1 2", 2, "argument --mean-rgb: 2 numbers for"),
        ("--model nowhere", 1, "nowhere-symbol.json is missing"),
        ("--ctx gpu", 1, "no GPU"),
        ("--logdir net-symbol.json --model nowhere", 1, "File exists: 'net-symbol.json'"),
        ("--image .", 1, "Is a directory: '.'"),
        ("--image nowhere.png", 1, "nowhere.png"),
        ("--image net-symbol.json", 1, "net-symbol.json is not a picture"),
        ("--data-dir damaged", 1, "vgg16_conv1_1_weight.param is damaged"),
    ],
)
def test_bad_input_is_named_and_nothing_is_logged(
    arguments, status, words, call, tmp_path, request
):
    save_checkpoint(tmp_path, np.ones((8, 3, 5, 5), np.float32))
    if "damaged" in arguments:
        shutil.copytree(request.getfixturevalue("real") / "filters", tmp_path / "damaged")
        path = tmp_path / "damaged" / "vgg16_conv1_1_weight.param"
        path.chmod(0o600)
        damage(path, "cut")
    with pytest.raises((ScriptError, OSError), match=words) as raised:
        call(SCRIPT, "--offline", *arguments.split())
    assert getattr(raised.value, "status", 1) == status
    assert not list(tmp_path.glob("logs/*"))
