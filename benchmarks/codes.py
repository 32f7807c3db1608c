"""Measure codes of ResNet-152, from picture files to codes and thumbnails.

    python benchmarks/codes.py DATA_DIR

All compute the same network from the same files, of 224 x 224 pixels, each with its own best
settings. The whole command counts: 2,304 pictures, or 128 with --quick (20 minutes a round, or 4).
Its set-up is loading, compiling, and for int8 the calibration on 32 pictures (16 for ours). MXNet's
AMX code corrupts memory, so the peers leave AMX alone too, but for ONNX Runtime, which has no
switch for it. BENCHMARK_AMX=1 shows them as they come.
"""

import concurrent.futures
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import cv2
import measure
import numpy as np

COUNT, QUICK_COUNT, BATCH, SIDE = 2304, 128, 32, 224
CORES = len(os.sched_getaffinity(0))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLOCKS = {1: (3, 1), 2: (8, 2), 3: (36, 2), 4: (3, 2)}  # how many per stage, and its stride
PEERS = ("PyTorch float32", "PyTorch compiled bfloat16", "ONNX Runtime float32")
PEERS += ("ONNX Runtime int8", "OpenVINO float32", "OpenVINO bfloat16", "OpenVINO int8")


def decode(path):
    """Read a picture and its thumbnail, (3, H, W) uint8 RGB each."""
    pixels = cv2.imread(str(path))[:, :, ::-1]
    small = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA)
    return pixels.transpose(2, 0, 1), small.transpose(2, 0, 1)


def load_batches(paths):
    """Yield batches of pictures and thumbnails, decoded in threads, a batch ahead."""
    with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
        ahead = pool.map(decode, paths[:BATCH])
        for start in range(BATCH, len(paths) + BATCH, BATCH):
            batch, ahead = ahead, pool.map(decode, paths[start : start + BATCH])
            yield tuple(map(np.stack, zip(*batch)))


def load_torch(work):
    """Build Gluon's resnet152_v2 in PyTorch, with its weights."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            arrays = {**np.load(Path(work, "weights.npz")), "mean": MEAN, "std": STD}
            for name, array in arrays.items():
                self.register_buffer(name, torch.tensor(array))

        def norm(self, x, name):
            parts = ("running_mean", "running_var", "gamma", "beta")
            arrays = (getattr(self, f"{name}_{part}") for part in parts)
            return functional.batch_norm(x, *arrays, eps=1e-5)

        def conv(self, x, name, stride=1, padding=0):
            return functional.conv2d(x, getattr(self, f"{name}_weight"), None, stride, padding)

        def block(self, x, stage, number, stride):
            norms = [f"stage{stage}_batchnorm{3 * number + i}" for i in range(3)]
            convs = [f"stage{stage}_conv{3 * number + (number > 0) + i}" for i in range(4)]
            y = self.norm(x, norms[0]).relu()
            x = x if number else self.conv(y, convs[3], stride)
            y = self.norm(self.conv(y, convs[0]), norms[1]).relu()
            y = self.norm(self.conv(y, convs[1], stride, 1), norms[2]).relu()
            return x + self.conv(y, convs[2])

        def forward(self, x):
            x = (x / 255 - self.mean[:, None, None]) / self.std[:, None, None]
            x = self.conv(self.norm(x, "batchnorm0"), "conv0", 2, 3)
            x = functional.max_pool2d(self.norm(x, "batchnorm1").relu(), 3, 2, 1)
            for stage, (count, stride) in BLOCKS.items():
                for number in range(count):
                    x = self.block(x, stage, number, 1 if number else stride)
            x = functional.adaptive_avg_pool2d(self.norm(x, "batchnorm2").relu(), 1).flatten(1)
            return functional.linear(x, self.dense0_weight, self.dense0_bias)

    return Net().eval()


def prepare_torch(precision, work, calibration):
    """Compile in bfloat16, or run in float32 as it is."""
    import torch

    net, dtype = load_torch(work).to(memory_format=torch.channels_last), torch.float32
    if precision == "bfloat16":
        import torch._inductor.config

        torch._inductor.config.freezing = True
        net, dtype = torch.compile(net.bfloat16()), torch.bfloat16

    @torch.inference_mode()
    def run(images):
        images = torch.from_numpy(images).to(dtype, memory_format=torch.channels_last)
        return net(images).float().numpy()

    return run


def prepare_onnx(precision, work, calibration):
    """Run the ONNX file, quantized first for int8."""
    import onnxruntime
    from onnxruntime import quantization

    path = f"{work}/net.onnx"
    if precision == "int8":
        # By eights, and never three of them in memory: the outputs of all layers are kept.
        batches = iter([{"data": each} for each in np.split(calibration, 4)])

        class Reader(quantization.CalibrationDataReader):
            def get_next(self):
                return next(batches, None)

        whole, path = f"{work}/whole.onnx", f"{work}/int8.onnx"
        quantization.quant_pre_process(f"{work}/net.onnx", whole)
        quantization.quantize_static(
            *(whole, path, Reader()),
            activation_type=quantization.QuantType.QUInt8,  # the fast one on x86-64
            per_channel=True,
            extra_options={"CalibMaxIntermediateOutputs": 3},
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return lambda images: session.run(None, {"data": images.astype(np.float32)})[0]


def prepare_openvino(precision, work, calibration):
    """Compile the ONNX file in the precision that is asked for."""
    import openvino

    model = openvino.Core().read_model(f"{work}/net.onnx")
    model.reshape([BATCH, 3, SIDE, SIDE])
    if precision == "int8":
        import nncf

        model = nncf.quantize(model, nncf.Dataset([calibration]))
    hints = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32"}
    compiled = openvino.compile_model(model, "CPU", {**hints, "INFERENCE_NUM_THREADS": CORES})
    return lambda images: compiled(images.astype(np.float32))[0]


def collect(way, work, folder):
    """Collect codes and thumbnails as a peer; tell the seconds without the set-up."""
    if not os.environ.get("BENCHMARK_AMX"):
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_BF16"
    libraries = {"PyTorch": prepare_torch, "ONNX": prepare_onnx, "OpenVINO": prepare_openvino}
    library, *_, precision = way.split(" ")
    paths = sorted(Path(work, "pictures").iterdir())
    ((images, _),) = load_batches(paths[:BATCH])
    run = libraries[library](precision, work, images.astype(np.float32))
    run(images)
    started = time.perf_counter()
    found = [(run(images), thumbnails) for images, thumbnails in load_batches(paths)]
    codes, _ = map(np.concatenate, zip(*found))
    print(time.perf_counter() - started)
    np.save(Path(folder, "codes.npy"), codes)


def export_onnx(work):
    """Write the network as ONNX, for the peers that read it."""
    import torch

    example, names = torch.zeros(BATCH, 3, SIDE, SIDE), {"data": {0: "count"}}
    options = {"dynamo": False, "input_names": ["data"], "dynamic_axes": names}
    torch.onnx.export(load_torch(work), example, f"{work}/net.onnx", **options)


def collect_as_published(work, folder):
    """Collect with a Module, MXNet's own choice of threads, batches of 8, and arrays that grow."""
    # All that MXNet needs beside NumPy 1.26, so Python below 3.13; mxcompat would set more.
    np.bool = bool
    import mxnet as mx

    symbol, arg_params, aux_params = mx.model.load_checkpoint(f"{work}/net", 0)
    module = mx.mod.Module(symbol, label_names=None)
    module.bind(for_training=False, data_shapes=[("data", (8, 3, SIDE, SIDE))])
    module.set_params(arg_params, aux_params)
    paths, arrays = sorted(Path(work, "pictures").iterdir()), None
    started = time.perf_counter()
    for start in range(0, len(paths), 8):
        pixels = [cv2.imread(str(path))[:, :, ::-1] for path in paths[start : start + 8]]
        pictures = [mx.nd.array(each, dtype="uint8") for each in pixels]
        small = [mx.image.imresize(picture, 64, 64).expand_dims(0) for picture in pictures]
        batch = mx.nd.stack(*pictures).transpose((0, 3, 1, 2)).astype("float32")
        module.forward(mx.io.DataBatch([batch]), is_train=False)
        new = module.get_outputs()[0].copy(), mx.nd.concat(*small, dim=0)
        arrays = [mx.nd.concat(*pair, dim=0) for pair in zip(arrays, new)] if arrays else new
    mx.nd.waitall()
    print(time.perf_counter() - started)
    np.save(Path(folder, "codes.npy"), arrays[0].asnumpy())


def prepare(data_dir, count, work):
    """Save the network, and pictures that are cut to what it takes, for all."""
    import mxcompat  # lets MXNet run
    from mxcompat.downloads import Files

    import mxnet as mx

    from common.datasets import load_pictures
    from common.networks import load_resnet_152

    files = Files(data_dir)
    symbol, params, _, _ = load_resnet_152(files, (3, SIDE, SIDE))
    np.savez(f"{work}/weights.npz", **{name: each.asnumpy() for name, each in params.items()})
    states = {name: params.pop(name) for name in symbol.list_auxiliary_states()}
    mx.model.save_checkpoint(f"{work}/net", 0, symbol, params, states)
    pictures = load_pictures(None, (3, SIDE, SIDE), files)
    os.mkdir(f"{work}/pictures")
    for number in range(int(count)):
        pixels = pictures[number * len(pictures) // int(count)][0].transpose(1, 2, 0)[:, :, ::-1]
        cv2.imwrite(f"{work}/pictures/{number:04}.jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])


def read(done):
    """Return the seconds of the whole command; of its set-up, of the rest, and the codes."""
    if (path := done.folder / "codes.npy").exists():
        codes, seconds = np.load(path), measure.told(done)
    else:
        import mxfiles

        (shuffled,) = mxfiles.load(done.folder / "net_convnet_codes.ndarray")
        order = np.random.default_rng(42).permutation(len(shuffled))  # as the script draws them
        codes = shuffled[np.argsort(order)]
        seconds = len(codes) / float(re.search(r"([\d.]+) pictures per second", done.output)[1])
    return done.seconds, (done.seconds - seconds, seconds, codes)


def compare(data_dir, count, rounds):
    """Run all in turn, and compare their codes with ours in float32."""
    with tempfile.TemporaryDirectory() as work:
        # In another process, whose memory is not counted as this one's.
        measure.run([sys.executable, __file__, "prepare", data_dir, count], work)
        script = [sys.executable, measure.ROOT / "get_convnet_codes.py", "--offline"]
        script += ["--model", f"{work}/net", "--images", f"{work}/pictures"]
        script += ["--code-layer", "dense0_fwd_output", "--max-num-images", count]
        ways = {f"ours {x}": [*script, "--dtype", x, "--data-dir"] for x in ("int8", "float32")}
        ways["MXNet as it comes"] = [sys.executable, __file__, "published", work]
        peers = measure.find_pythons((), PEERS)
        if peers:
            measure.run([peers[PEERS[0]], __file__, "onnx"], work)
            ways.update({way: [python, __file__, way, work] for way, python in peers.items()})
        title = f"{count:,} pictures, start to end"
        _, results = measure.compare(title, ways, rounds, read, warm_ups=0)
    import mxcompat  # so late, for its memory would count as theirs

    from common.int8 import mean_cosine

    print("\nIn the last round:\n")
    print("| | set-up, seconds | then pictures per second | cosine with ours in float32 |")
    print("| --- | --- | --- | --- |")
    for way, (setup, seconds, codes) in results.items():
        cosine = mean_cosine(codes, results["ours float32"][-1])
        print(f"| {way} | {setup:.1f} | {len(codes) / seconds:.1f} | {cosine:.4f} |")
        assert cosine > (0.999 if "float32" in way or "MXNet" in way else 0.9)


def main():
    """Compare all that is installed."""
    name, *rest = sys.argv[1:] or [""]
    programs = {"published": collect_as_published, "prepare": prepare, "onnx": export_onnx}
    if name in programs:
        programs[name](*rest)
    elif name in PEERS:
        collect(name, *rest)
    else:
        args = measure.parse_args(__doc__, "data_dir")
        compare(args.data_dir, QUICK_COUNT if args.quick else COUNT, args.rounds)


if __name__ == "__main__":
    main()
