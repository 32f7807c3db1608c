import shutil

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import assert_one_line_error, decode, read_log, read_text, run_script

LAYERS = {
    "inception_bn_conv_1": (7, True, (123.68, 116.779, 103.939)),
    "resnet_152_conv0": (7, False, (0, 0, 0)),
    "vgg16_conv1_1": (3, True, (0, 0, 0)),
}
TAGS = ["swan"] + [f"{name}_{kind}" for name in LAYERS for kind in ("weight", "output")]


def run(tmp_path, *args, status=0, **options):
    result = run_script(
        "plot_filter_and_output.py", "--logdir", tmp_path / "logs", *args, cwd=tmp_path, **options
    )
    assert result.returncode == status, result.stderr
    return result


def pictures(tmp_path):
    log = read_log(tmp_path / "logs")
    shown = {}
    for tag in log.Tags()["images"]:
        (event,) = log.Images(tag)
        shown[tag] = decode(event)
    return shown


def convolve(picture, weight, bias, mean_rgb):
    """Correlate a (3, H, W) picture with (F, 3, h, w) filters, where they lie wholly on it."""
    pixels = picture.astype(np.float64) - np.array(mean_rgb)[:, None, None]
    windows = np.lib.stride_tricks.sliding_window_view(pixels, weight.shape[2:], axis=(1, 2))
    count, _, height, width = weight.shape
    rows = windows.transpose(1, 2, 0, 3, 4).reshape(-1, 3 * height * width)
    maps = rows @ weight.reshape(count, -1).astype(np.float64).T + bias
    return maps.T.reshape(count, 1, *windows.shape[1:3])


def stretch(batch):
    low = batch.min(axis=(1, 2, 3), keepdims=True)
    spread = batch.max(axis=(1, 2, 3), keepdims=True) - low
    return np.divide(batch - low, spread, out=np.zeros_like(batch), where=spread > 0)


def grid(batch):
    """Lay out (F, C, H, W) items in [0, 1] by hand: 8 a row, 2 black pixels around each."""
    count, _, height, width = batch.shape
    rows = -(-count // 8)
    sheet = np.zeros((rows * (height + 2) + 2, 8 * (width + 2) + 2, 3))
    for index, item in enumerate(batch):
        top = 2 + index // 8 * (height + 2)
        left = 2 + index % 8 * (width + 2)
        sheet[top : top + height, left : left + width] = item.transpose(1, 2, 0)
    return sheet * 255


def assert_same(shown, expected):
    assert shown.shape == expected.shape
    assert abs(shown.astype(float) - expected).max() <= 1


def cells(sheet, side):
    """Cut a grid of 64 square items, 8 a row, into (64, side, side, 3)."""
    pitch = side + 2
    return np.array(
        [
            sheet[2 + i // 8 * pitch :, 2 + i % 8 * pitch :][:side, :side].astype(int)
            for i in range(64)
        ]
    )


def test_all_seven_pictures_are_those_of_the_published_arithmetic(real, tmp_path):
    run(tmp_path, "--data-dir", real / "filters")
    shown = pictures(tmp_path)
    assert sorted(shown) == sorted(TAGS)
    read = {path.name: mx.nd.load(str(path))[0].asnumpy() for path in (real / "filters").iterdir()}
    swan = read["imagenet_swan.ndarray"]
    assert (shown["swan"] == swan.transpose(1, 2, 0)).all()
    for name, (_, has_bias, mean_rgb) in LAYERS.items():
        weight = read[f"{name}_weight.param"]
        bias = read[f"{name}_bias.param"] if has_bias else 0
        assert_same(shown[f"{name}_weight"], grid(stretch(weight)))
        maps = convolve(swan, weight, bias, mean_rgb)
        assert_same(shown[f"{name}_output"], grid(stretch(maps)))


def test_files_that_are_missing_are_fetched(real, http_folder, tmp_path):
    url, requests = http_folder(real / "filters")
    result = run(tmp_path, env={"MXBOARD_DEMO_MIRROR": url})
    assert "drawn" not in result.stderr
    assert len([path for method, path in requests if method == "GET"]) == 6
    text = read_text(read_log(tmp_path / "logs"), "filters_data")
    assert "swan" in text and "VGG16" in text and "drawn" not in text
    result = run(tmp_path, "--offline")
    assert result.stderr == ""


def test_without_a_network_everything_is_drawn_and_says_so(tmp_path):
    result = run(tmp_path, "--offline")
    filters_notice, picture_notice = result.stderr.splitlines()
    assert "vgg16_conv1_1_bias.param" in filters_notice and "drawn" in filters_notice
    assert "imagenet_swan.ndarray" in picture_notice and "drawn" in picture_notice
    text = read_text(read_log(tmp_path / "logs"), "filters_data")
    assert "**No photograph:**" in text and "**Not trained:**" in text
    shown = pictures(tmp_path)
    assert sorted(shown) == sorted(TAGS)
    assert shown["swan"].shape == (224, 224, 3)
    for name, (kernel, _, mean_rgb) in LAYERS.items():
        filters = cells(shown[f"{name}_weight"], kernel)
        grey = np.ptp(filters, axis=3).max(axis=(1, 2)) <= 1
        assert grey.sum() == 32
        assert len(np.unique(filters.reshape(64, -1), axis=0)) == 64
        # The maps are what these very filters make of this very picture.
        weight = filters.transpose(0, 3, 1, 2) - filters.mean(axis=(1, 2, 3))[:, None, None, None]
        if kernel == 7:
            maps = cells(shown[f"{name}_output"], 218)[grey][..., 0].reshape(32, -1)
            expected = convolve(shown["swan"].transpose(2, 0, 1), weight[grey], 0, mean_rgb)
            for k in range(32):
                assert np.corrcoef(maps[k], expected[k].ravel())[0, 1] > 0.95


def save_checkpoint(folder, weight, number=0, **attributes):
    """Save a network of a convolution and a dense layer; return its prefix."""
    data = mx.sym.Variable("data")
    attributes = {"kernel": weight.shape[2:], "num_filter": weight.shape[0], **attributes}
    conv = mx.sym.Convolution(data, name="look", no_bias=True, **attributes)
    deeper = mx.sym.Convolution(conv, name="deeper", kernel=(1, 1), num_filter=3)
    again = mx.sym.Convolution(deeper, name="again", kernel=(3, 3), num_filter=2)
    net = mx.sym.FullyConnected(again, name="fc", num_hidden=2)
    arguments = {
        "look_weight": mx.nd.array(weight),
        "deeper_weight": mx.nd.ones((3, weight.shape[0], 1, 1)),
        "deeper_bias": mx.nd.zeros(3),
        "again_weight": mx.nd.random.uniform(shape=(2, 3, 3, 3)),
        "again_bias": mx.nd.zeros(2),
        "fc_weight": mx.nd.ones((2, 4)),
        "fc_bias": mx.nd.ones(2),
    }
    mx.model.save_checkpoint(str(folder / "net"), number, net, arguments, {})
    return folder / "net"


@pytest.fixture
def photo(tmp_path):
    """Write a picture of soft noise with one bright spot."""
    pixels = np.random.default_rng(0).integers(0, 200, (224, 224, 3), np.uint8)
    pixels = cv2.GaussianBlur(pixels, (5, 5), 2)
    pixels[100, 150] = 255
    cv2.imwrite(str(tmp_path / "photo.png"), pixels)
    return pixels[:, :, ::-1]


def test_filter_k_stands_where_feature_map_k_stands(photo, tmp_path):
    weight = np.random.default_rng(1).normal(0, 0.01, (64, 3, 5, 5)).astype(np.float32)
    # Filter 21, third row, sixth column, sees nothing but the red of its lower right pixel.
    weight[21] = 0
    weight[21, 0, 4, 4] = 1
    prefix = save_checkpoint(tmp_path, weight)
    run(tmp_path, "--image", "photo.png", "--model", prefix)
    shown = pictures(tmp_path)
    assert set(shown) == {"photo", "look_weight", "look_output"}
    row, column = 2, 5
    cell = shown["look_weight"][2 + row * 7 :, 2 + column * 7 :][:5, :5]
    expected = np.zeros((5, 5, 3))
    expected[4, 4, 0] = 255
    assert (cell == expected).all()
    output = shown["look_output"][2 + row * 222 :, 2 + column * 222 :][:220, :220, 0].astype(int)
    red = photo[4:, 4:, 0].astype(int)
    assert abs(output - 255 * (red - red.min()) / np.ptp(red)).max() <= 1
    assert output[100 - 4, 150 - 4] == 255


def test_filter_and_map_that_are_all_the_same_are_black(photo, tmp_path):
    weight = np.zeros((3, 3, 1, 1), np.float32)
    weight[0] = 1
    weight[1, 0] = 1
    prefix = save_checkpoint(tmp_path, weight)
    # The mean shifts each map as a whole, so that it is not to be seen.
    run(tmp_path, "--image", "photo.png", "--model", prefix, "--mean-rgb", 10, 20.5, 30)
    shown = pictures(tmp_path)
    red = np.zeros((5, 11, 3))
    red[2, 5, 0] = 255
    assert (shown["look_weight"] == red).all()
    maps = stretch(convolve(photo.transpose(2, 0, 1), weight, 0, (10, 20.5, 30)))
    for k in range(3):
        cell = shown["look_output"][2:226, 2 + k * 226 :][:, :224, 0]
        assert abs(cell - 255 * maps[k, 0]).max() <= 1
    assert not maps[2].any()


def test_highest_numbered_parameters_and_the_named_layer_are_shown(photo, tmp_path):
    save_checkpoint(tmp_path, np.zeros((8, 3, 3, 3), np.float32), number=9)
    weight = np.random.default_rng(2).normal(size=(8, 3, 3, 3)).astype(np.float32)
    prefix = save_checkpoint(tmp_path, weight, number=10)
    (tmp_path / "net-best.params").write_bytes(b"not numbered")
    run(tmp_path, "--image", "photo.png", "--model", prefix)
    assert_same(pictures(tmp_path)["look_weight"], grid(stretch(weight)))
    assert "net-0010.params" in read_text(read_log(tmp_path / "logs"), "filters_data")
    run(tmp_path, "--image", "photo.png", "--model", prefix, "--layer", "again", "--logdir", "b")
    assert {"again_weight", "again_output"} < set(read_log(tmp_path / "b").Tags()["images"])


def test_real_checkpoint_shows_trained_filters(real, tmp_path):
    prefix = real / "mobilenet_v2" / "mobilenet_v2"
    run(tmp_path, "--model", prefix, "--data-dir", real / "filters")
    shown = pictures(tmp_path)
    assert set(shown) == {"swan", "conv0_weight", "conv0_output"}
    parameters = mx.nd.load(f"{prefix}-0000.params")
    weight = parameters["arg:conv0_weight"].asnumpy()
    bias = parameters["arg:conv0_bias"].asnumpy()
    swan = mx.nd.load(str(real / "filters" / "imagenet_swan.ndarray"))[0].asnumpy()
    assert_same(shown["conv0_weight"], grid(stretch(weight)))
    assert_same(shown["conv0_output"], grid(stretch(convolve(swan, weight, bias, (0, 0, 0)))))


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("grey.png", np.full((300, 400), 77, np.uint8)),
        ("alpha.png", np.dstack([np.full((300, 400, 3), 77, np.uint8), np.zeros((300, 400))])),
        ("deep.png", np.full((300, 400, 3), 77 * 257, np.uint16)),
        ("small.bmp", np.full((10, 12, 3), 77, np.uint8)),
        ("tall.jpg", np.full((2000, 300, 3), 77, np.uint8)),
        ("with space.webp", np.full((300, 400, 3), 77, np.uint8)),
        ("wide.tiff", np.full((20, 30_000, 3), 77, np.uint8)),
    ],
)
def test_picture_of_any_format_and_size_is_shown_under_its_own_name(name, pixels, tmp_path):
    assert cv2.imwrite(str(tmp_path / name), pixels)
    run(tmp_path, "--image", name, "--offline")
    shown = pictures(tmp_path)[name.rsplit(".", 1)[0]]
    assert shown.shape == (224, 224, 3)
    assert abs(shown.astype(int) - 77).max() <= 2


def test_picture_is_resized_to_its_shorter_edge_and_cropped_at_the_centre(tmp_path):
    red, green, blue = (0, 0, 255), (0, 255, 0), (255, 0, 0)
    pixels = np.zeros((448, 896, 3), np.uint8)
    pixels[:, :224] = blue
    pixels[:, 224:448] = red
    pixels[:, 448:672] = green
    pixels[:, 672:] = blue
    cv2.imwrite(str(tmp_path / "flag.png"), pixels)
    run(tmp_path, "--image", "flag.png", "--offline")
    shown = pictures(tmp_path)["flag"]
    assert (shown[:, :112] == red[::-1]).all() and (shown[:, 112:] == green[::-1]).all()


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_what_is_no_picture_ends_in_one_line_and_logs_nothing(content, tmp_path):
    if content is not None:
        (tmp_path / "bad.png").write_bytes(content)
    result = run(tmp_path, "--image", "bad.png", "--offline", status=1)
    assert_one_line_error(result, 1, "bad.png")
    assert not list(tmp_path.glob("logs/*"))


def test_folder_in_place_of_a_picture_ends_in_one_line(tmp_path):
    (tmp_path / "folder.png").mkdir()
    assert_one_line_error(
        run(tmp_path, "--image", "folder.png", "--offline", status=1), 1, "folder"
    )


def test_picture_smaller_than_a_filter_ends_in_one_line(tmp_path):
    cv2.imwrite(str(tmp_path / "tiny.png"), np.zeros((6, 20, 3), np.uint8))
    result = run(tmp_path, "--image", "tiny.png", "--offline", status=1)
    assert_one_line_error(result, 1, "tiny.png", "20 x 6", "7 x 7")
    assert not list(tmp_path.glob("logs/*"))


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path, np.ones((4, 3, 3, 3), np.float32))


def assert_refused(tmp_path, checkpoint, *words, args=(), status=1):
    result = run(tmp_path, "--offline", "--model", checkpoint, *args, status=status)
    assert_one_line_error(result, status, *words)
    assert not list(tmp_path.glob("logs/*"))


@pytest.mark.parametrize("name", ["net-symbol.json", "net-0000.params"])
def test_prefix_without_its_files_ends_in_one_line_that_names_them(name, checkpoint, tmp_path):
    (tmp_path / name).unlink()
    assert_refused(tmp_path, checkpoint, name)


@pytest.mark.parametrize("name", ["net-symbol.json", "net-0000.params"])
@pytest.mark.parametrize("damage", ["empty", "half", "text"])
def test_damaged_checkpoint_ends_in_one_line_that_names_it(name, damage, checkpoint, tmp_path):
    content = (tmp_path / name).read_bytes()
    damaged = {"empty": b"", "half": content[: len(content) // 2], "text": b"hello, world\n" * 99}
    (tmp_path / name).write_bytes(damaged[damage])
    assert_refused(tmp_path, checkpoint, name)


def test_parameters_that_do_not_fit_the_symbol_end_in_one_line(checkpoint, tmp_path):
    path = tmp_path / "net-0000.params"
    parameters = mx.nd.load(str(path))
    parameters["arg:look_weight"] = mx.nd.ones((4, 3, 5, 5))
    mx.nd.save(str(path), parameters)
    assert_refused(tmp_path, checkpoint, path.name, "look_weight")
    del parameters["arg:look_weight"]
    mx.nd.save(str(path), parameters)
    assert_refused(tmp_path, checkpoint, path.name, "look_weight")
    mx.nd.save(str(path), list(parameters.values()))
    assert_refused(tmp_path, checkpoint, path.name)


def test_parameters_that_are_no_numbers_end_in_one_line(tmp_path):
    prefix = save_checkpoint(tmp_path, np.full((4, 3, 3, 3), np.nan, np.float32))
    assert_refused(tmp_path, prefix, "look_weight")


@pytest.mark.parametrize("name", ["nowhere", "deeper", "fc"])
def test_layer_that_will_not_do_is_refused_with_those_that_would(name, checkpoint, tmp_path):
    args = ("--layer", name)
    assert_refused(tmp_path, checkpoint, name, "look again", args=args, status=2)


def test_checkpoint_without_a_layer_for_pictures_ends_in_one_line(tmp_path):
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), name="fc", num_hidden=2)
    parameters = {"fc_weight": mx.nd.ones((2, 4)), "fc_bias": mx.nd.ones(2)}
    mx.model.save_checkpoint(str(tmp_path / "net"), 0, net, parameters, {})
    assert_refused(tmp_path, tmp_path / "net", "no convolution with 3 input channels")


@pytest.mark.parametrize("args", [("--layer", "conv0"), ("--mean-rgb", 1, 2, 3)])
def test_arguments_about_a_checkpoint_need_one(args, tmp_path):
    assert_one_line_error(run(tmp_path, *args, status=2), 2, "--model")


def test_gpu_that_is_not_there_ends_in_one_line(tmp_path):
    assert_one_line_error(run(tmp_path, "--ctx", "gpu", status=1), 1, "no GPU", "mxnet-cu112")


def test_damaged_weights_are_an_error_and_never_a_stand_in(real, tmp_path):
    shutil.copytree(real / "filters", tmp_path / "data")
    path = tmp_path / "data" / "vgg16_conv1_1_weight.param"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    result = run(tmp_path, "--offline", status=1)
    assert_one_line_error(result, 1, path.name, "damaged")
    assert not list(tmp_path.glob("logs/*"))
