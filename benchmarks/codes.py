"""Measure codes of ResNet-152, from picture files to codes and thumbnails.

    python benchmarks/codes.py DATA_DIR

All compute the same network from the same files, of 224 x 224 pixels, each with its own best
settings. The whole command is what a user waits for, 2,304 pictures from start to end, or 128 with
--quick: a round of all ways takes 20 minutes, or 4. Its set-up is everything before the first
picture counts: loading, compiling, and for int8 the calibration on 32 pictures (16 for ours).
MXNet's AMX code corrupts memory, so the peers leave AMX alone too, but for ONNX Runtime, which has
no switch for it. BENCHMARK_AMX=1 shows them as they come.
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
CODE_LAYER = "dense0_fwd_output"
CORES = len(os.sched_getaffinity(0))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLOCKS = {1: (3, 1), 2: (8, 2), 3: (36, 2), 4: (3, 2)}  # how many a stage, and its stride
PEERS = {
    **dict.fromkeys(("PyTorch float32", "PyTorch bfloat16, compiled"), "torch onnx"),
    **dict.fromkeys(("ONNX Runtime float32", "ONNX Runtime int8"), "onnxruntime onnx"),
    **dict.fromkeys(("OpenVINO float32", "OpenVINO bfloat16"), "openvino"),
    "OpenVINO int8": "openvino nncf",
}


def read_rgb(path):
    """Read a (H, W, 3) uint8 RGB picture."""
    return cv2.imread(str(path))[:, :, ::-1]


def decode(path):
    """Read a picture and its thumbnail, (3, H, W) uint8 RGB each."""
    pixels = read_rgb(path)
    small = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA)
    return pixels.transpose(2, 0, 1), small.transpose(2, 0, 1)


def load_batches(paths):
    """Yield batches of pictures and thumbnails, decoded in threads, a batch ahead."""
    with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
        ahead = []
        for start in range(0, len(paths) + BATCH, BATCH):
            batch, ahead = ahead, [pool.submit(decode, each) for each in paths[start:][:BATCH]]
            if batch:
                yield tuple(map(np.stack, zip(*(future.result() for future in batch))))


def load_torch(work):
    """Build Gluon's resnet152_v2 in PyTorch, with its weights."""
    import torch
    from torch import nn

    arrays = np.load(work / "weights.npz")

    def conv(name, stride=1, padding=0):
        weight = torch.from_numpy(arrays[f"{name}_weight"])
        layer = nn.Conv2d(*weight.shape[1::-1], weight.shape[2], stride, padding, bias=False)
        layer.weight.data = weight
        return layer

    def norm(name):
        weight, bias, mean, var = (
            torch.from_numpy(arrays[f"{name}_{part}"])
            for part in ("gamma", "beta", "running_mean", "running_var")
        )
        layer = nn.BatchNorm2d(len(weight), eps=1e-5)
        layer.load_state_dict(
            {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}, False
        )
        return layer

    class Block(nn.Module):
        def __init__(self, stage, number, first_conv, stride):
            super().__init__()
            bn, cv = f"stage{stage}_batchnorm{{}}", f"stage{stage}_conv{{}}"
            self.norms = nn.ModuleList(norm(bn.format(3 * number + i)) for i in range(3))
            self.convs = nn.ModuleList(
                conv(cv.format(first_conv + i), stride if i == 1 else 1, int(i == 1))
                for i in range(3)
            )
            self.down = conv(cv.format(first_conv + 3), stride) if number == 0 else None

        def forward(self, x):
            y = self.norms[0](x).relu()
            x = self.down(y) if self.down else x
            y = self.norms[2](self.convs[1](self.norms[1](self.convs[0](y)).relu())).relu()
            return x + self.convs[2](y)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layers = [norm("batchnorm0"), conv("conv0", 2, 3), norm("batchnorm1"), nn.ReLU()]
            layers.append(nn.MaxPool2d(3, 2, 1))
            for stage, (count, stride) in BLOCKS.items():
                for number in range(count):
                    first_conv = 3 * number + (number > 0)
                    layers.append(Block(stage, number, first_conv, stride if number == 0 else 1))
            dense = nn.Linear(2048, 1000)
            dense.weight.data = torch.from_numpy(arrays["dense0_weight"])
            dense.bias.data = torch.from_numpy(arrays["dense0_bias"])
            layers += [norm("batchnorm2"), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense]
            self.layers = nn.Sequential(*layers)
            self.register_buffer("mean", torch.tensor(MEAN).reshape(3, 1, 1) * 255)
            self.register_buffer("std", torch.tensor(STD).reshape(3, 1, 1) * 255)

        def forward(self, x):
            return self.layers((x - self.mean) / self.std)

    return Net().eval()


def prepare_torch(precision, work, paths):
    """Compile in bfloat16, or run in float32 as it is."""
    import torch

    net, dtype = load_torch(work).to(memory_format=torch.channels_last), torch.float32
    if "bfloat16" in precision:
        import torch._inductor.config

        torch._inductor.config.freezing = True
        net, dtype = torch.compile(net.bfloat16()), torch.bfloat16

    @torch.inference_mode()
    def run(images):
        images = torch.from_numpy(images).to(dtype, memory_format=torch.channels_last)
        return net(images).float().numpy()

    return run


def load_calibration(paths):
    """Return the batch that int8 takes its ranges from."""
    ((images, _),) = load_batches(paths[:BATCH])
    return images.astype(np.float32)


def prepare_onnxruntime(precision, work, paths):
    """Run the ONNX file, quantized first for int8."""
    import onnxruntime
    from onnxruntime import quantization

    path = str(work / "net.onnx")
    if "int8" in precision:
        # By eights, and never three of them in memory: the outputs of all layers are kept.
        batches = iter([{"data": each} for each in np.split(load_calibration(paths), 4)])

        class Reader(quantization.CalibrationDataReader):
            def get_next(self):
                return next(batches, None)

        whole, path = str(work / "whole.onnx"), str(work / "int8.onnx")
        quantization.quant_pre_process(str(work / "net.onnx"), whole)
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


def prepare_openvino(precision, work, paths):
    """Compile the ONNX file in the precision that is asked for."""
    import openvino

    model = openvino.Core().read_model(work / "net.onnx")
    model.reshape([BATCH, 3, SIDE, SIDE])
    if precision == "int8":
        import nncf

        model = nncf.quantize(model, nncf.Dataset([load_calibration(paths)]))
    hints = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32"}
    compiled = openvino.compile_model(model, "CPU", {**hints, "INFERENCE_NUM_THREADS": CORES})
    return lambda images: compiled(images.astype(np.float32))[0]


def collect(way, work, folder):
    """Collect codes and thumbnails as a peer; tell the seconds without those of the set-up."""
    if not os.environ.get("BENCHMARK_AMX"):
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_BF16"
    library, precision = way.split(" ", 1)
    libraries = {
        "PyTorch": prepare_torch,
        "ONNX": prepare_onnxruntime,
        "OpenVINO": prepare_openvino,
    }
    paths = sorted(Path(work, "pictures").iterdir())
    run = libraries[library](precision, Path(work), paths)
    run(next(load_batches(paths[:BATCH]))[0])
    started = time.perf_counter()
    found = [(run(images), thumbnails) for images, thumbnails in load_batches(paths)]
    codes, thumbnails = map(np.concatenate, zip(*found))
    seconds = time.perf_counter() - started
    np.save(Path(folder, "codes.npy"), codes)
    measure.tell(seconds=seconds, thumbnails=len(thumbnails))


def export_onnx(work):
    """Write the network as ONNX, for the peers that read it."""
    import torch

    net, example = load_torch(Path(work)), torch.zeros(BATCH, 3, SIDE, SIDE)
    path = str(Path(work, "net.onnx"))
    names = {"input_names": ["data"], "dynamic_axes": {"data": {0: "count"}}}
    torch.onnx.export(net, example, path, dynamo=False, **names)


def collect_as_published(work, folder):
    """Collect with a Module, MXNet's own choice of threads, batches of 8, and arrays that grow."""
    # All that MXNet needs beside NumPy 1.26, so Python below 3.13; mxcompat would set more.
    np.bool = bool
    import mxnet as mx

    symbol, arg_params, aux_params = mx.model.load_checkpoint(f"{work}/net", 0)
    module = mx.mod.Module(symbol, label_names=None)
    module.bind(for_training=False, data_shapes=[("data", (8, 3, SIDE, SIDE))])
    module.set_params(arg_params, aux_params)
    arrays = None
    started = time.perf_counter()
    paths = sorted(Path(work, "pictures").iterdir())
    for start in range(0, len(paths), 8):
        pictures = [mx.nd.array(read_rgb(path), dtype="uint8") for path in paths[start : start + 8]]
        small = [mx.image.imresize(picture, 64, 64).expand_dims(0) for picture in pictures]
        batch = mx.nd.stack(*pictures).transpose((0, 3, 1, 2)).astype("float32")
        module.forward(mx.io.DataBatch([batch]), is_train=False)
        new = module.get_outputs()[0].copy(), mx.nd.concat(*small, dim=0)
        arrays = [mx.nd.concat(*pair, dim=0) for pair in zip(arrays, new)] if arrays else new
    mx.nd.waitall()
    seconds = time.perf_counter() - started
    np.save(Path(folder, "codes.npy"), arrays[0].asnumpy())
    measure.tell(seconds=seconds, thumbnails=len(arrays[1]))


def prepare(data_dir, count, work):
    """Save the network, and pictures that are cut to what it takes, for all."""
    from common.datasets import load_pictures
    from common.networks import load_resnet_152

    import mxnet as mx

    work, count = Path(work), int(count)
    net = load_resnet_152(data_dir, (3, SIDE, SIDE), mx.cpu()).block
    arrays = {name: each.data().asnumpy() for name, each in net.collect_params().items()}
    np.savez(work / "weights.npz", **arrays)
    net.hybridize()
    net(mx.nd.zeros((1, 3, SIDE, SIDE)))
    net.export(str(work / "net"))
    pictures = load_pictures(None, None, (3, SIDE, SIDE), data_dir)
    (work / "pictures").mkdir()
    for number in range(count):
        image, _ = pictures[number * len(pictures) // count]
        path = str(work / "pictures" / f"{number:04}.jpg")
        cv2.imwrite(path, image.transpose(1, 2, 0)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def read(done):
    """Return the seconds of the whole command; those of its set-up, those after, and the codes."""
    if (done.folder / "codes.npy").exists():
        codes, seconds = np.load(done.folder / "codes.npy"), measure.told(done)["seconds"]
    else:
        from common.arrays import parse_arrays

        content = (done.folder / "net_convnet_codes.ndarray").read_bytes()
        (shuffled,) = parse_arrays(content)
        order = np.random.default_rng(42).permutation(len(shuffled))  # as the script draws them
        codes = np.empty_like(shuffled)
        codes[order] = shuffled
        seconds = len(codes) / float(re.search(r"([\d.]+) pictures per second", done.output)[1])
    return done.seconds, (done.seconds - seconds, seconds, codes)


def compare(data_dir, count, rounds):
    """Run all in turn, and compare their codes with ours in float32."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        # In a process of its own, whose memory is not taken for that of those that follow.
        measure.run([sys.executable, __file__, "prepare", data_dir, count], work)
        script = [sys.executable, measure.ROOT / "get_convnet_codes.py", "--offline"]
        script += ["--model", work / "net", "--images", work / "pictures"]
        script += ["--code-layer", CODE_LAYER, "--max-num-images", count, "--data-dir"]
        ways = {
            "ours int8": [*script[:2], "--dtype", "int8", *script[2:]],
            "ours float32": [*script[:2], "--dtype", "float32", *script[2:]],
            "MXNet as it comes": [sys.executable, __file__, "published", work],
        }
        pythons = measure.find_pythons(PEERS)
        if "PyTorch float32" in pythons:
            measure.run([pythons["PyTorch float32"], __file__, "onnx"], work)
            ways.update({way: [python, __file__, way, work] for way, python in pythons.items()})
        job = f"{count:,} pictures, start to end"
        _, results = measure.compare(job, ways, rounds, read, warm_ups=0)
    from common.networks import mean_cosine

    _, _, expected = results["ours float32"]
    print("\nIn the last round:\n")
    print("| | set-up, seconds | then pictures per second | cosine with ours in float32 |")
    print("| --- | --- | --- | --- |")
    for way, (setup, seconds, codes) in results.items():
        cosine = mean_cosine(codes, expected)
        print(f"| {way} | {setup:.1f} | {len(codes) / seconds:.1f} | {cosine:.4f} |")
        assert cosine > (0.999 if "float32" in way or "MXNet" in way else 0.9)


def main():
    """Compare all that is installed."""
    if sys.argv[1:2] == ["published"]:
        collect_as_published(*sys.argv[2:])
    elif sys.argv[1:2] == ["prepare"]:
        prepare(*sys.argv[2:])
    elif sys.argv[1:2] == ["onnx"]:
        export_onnx(sys.argv[2])
    elif sys.argv[1:2] and sys.argv[1] in PEERS:
        collect(*sys.argv[1:])
    else:
        args = measure.parse_args(__doc__, "data_dir")
        compare(args.data_dir, QUICK_COUNT if args.quick else COUNT, args.rounds)


if __name__ == "__main__":
    main()
