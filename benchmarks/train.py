"""Measure an epoch of train_mnist.py, with everything that it logs.

    python benchmarks/train.py DATA_DIR

The published way sent every image through a Python transform and a DataLoader, read every loss and
accuracy back at every step, and logged with MXBoard's own event writer. PyTorch's way is for data
that fits the memory. Ours also logs the accuracy on training digits, the confusion and the first
layer's weights. An epoch lies between two points of `valid_acc` in a log, whoever wrote it.
"""

import gzip
import statistics
import sys
from pathlib import Path

import measure
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

BATCH_SIZE, EPOCHS, QUICK_EPOCHS = 100, 4, 2
THREADS = {"PyTorch, 1 thread": 1, "PyTorch, all threads": 0}


def train_as_published(data_dir, epochs, logdir):
    """Train and log, one image, one reading and one event at a time."""
    import mxcompat  # lets MXNet and MXBoard run

    import mxnet as mx
    from mxnet import autograd, gluon

    def to_float(image, label):
        return image.reshape((-1,)).astype(np.float32) / 255, label

    sets = [gluon.data.vision.MNIST(data_dir, train, to_float) for train in (True, False)]
    train_data = gluon.data.DataLoader(sets[0], BATCH_SIZE, shuffle=True, last_batch="discard")
    test_data = gluon.data.DataLoader(sets[1], BATCH_SIZE)
    net = gluon.nn.HybridSequential(prefix="hybridsequential0_")
    with net.name_scope():
        net.add(gluon.nn.Dense(128, "relu"), gluon.nn.Dense(64, "relu"), gluon.nn.Dense(10))
    net.hybridize()
    net.initialize(mx.init.Xavier(magnitude=2.24))
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9})
    cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()

    with measure.open_mxboard(logdir) as sw:
        for epoch in range(int(epochs)):
            train_acc, valid_acc = mx.metric.Accuracy(), mx.metric.Accuracy()
            for batch, (images, labels) in enumerate(train_data):
                with autograd.record():
                    logits = net(images)
                    loss = cross_entropy(logits, labels)
                loss.backward()
                step = epoch * len(train_data) + batch
                sw.add_scalar("cross_entropy", loss.mean().asscalar(), step)
                trainer.step(BATCH_SIZE)
                train_acc.update([labels], [logits])
                if batch == 0:
                    sw.add_image("minist_first_minibatch", images.reshape((-1, 1, 28, 28)), epoch)
            if epoch == 0:
                sw.add_graph(net)
            for name, parameter in net.collect_params().items():
                sw.add_histogram(name, parameter.grad(), epoch, bins=1000)
            for images, labels in test_data:
                valid_acc.update([labels], [net(images)])
            sw.add_scalar("train_acc", train_acc.get()[1], epoch)
            sw.add_scalar("valid_acc", valid_acc.get()[1], epoch)


def train_with_torch(threads, data_dir, epochs, logdir):
    """Train and log the same with PyTorch and its SummaryWriter."""
    import torch
    from torch import nn
    from torch.utils.tensorboard import SummaryWriter

    def read(name, start):
        content = gzip.decompress(Path(data_dir, f"{name}-ubyte.gz").read_bytes())
        return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start)

    if threads:
        torch.set_num_threads(threads)
    images, test_images = (
        read(f"{part}-images-idx3", 16).reshape(-1, 1, 28, 28) / 255 for part in ("train", "t10k")
    )
    labels, test_labels = (read(f"{part}-labels-idx1", 8).long() for part in ("train", "t10k"))
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU())
    net.extend([nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    steps = len(images) // BATCH_SIZE
    with SummaryWriter(logdir, flush_secs=5) as sw:
        sw.add_graph(net, images[:1])
        for epoch in range(int(epochs)):
            order = torch.randperm(len(images)).view(steps, BATCH_SIZE)
            sw.add_images("minist_first_minibatch", images[order[0]], epoch)
            correct = 0
            for batch, indices in enumerate(order):
                logits = net(images[indices])
                loss = nn.functional.cross_entropy(logits, labels[indices])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                sw.add_scalar("cross_entropy", loss.item(), epoch * steps + batch)
                correct += (logits.argmax(1) == labels[indices]).sum()
            for name, parameter in net.named_parameters():
                sw.add_histogram(name, parameter.grad, epoch, bins=1000)
            sw.add_scalar("train_acc", correct / len(images), epoch)
            with torch.inference_mode():
                correct = (net(test_images).argmax(1) == test_labels).sum()
            sw.add_scalar("valid_acc", correct / len(test_images), epoch)


def read(done):
    """Return the seconds of an epoch, and the accuracy and the counts of what every way logs."""
    log = EventAccumulator(str(done.folder), {"scalars": 0})
    log.Reload()
    points = log.Scalars("valid_acc")
    seconds = statistics.median(np.diff([point.wall_time for point in points]))
    steps, pictures = log.Scalars("cross_entropy"), log.Images("minist_first_minibatch")
    return seconds, (points[-1].value, len(steps), len(pictures), len(log.Tags()["histograms"]))


def main():
    """Compare the ways."""
    name, *rest = sys.argv[1:] or [""]
    if name == "published":
        return train_as_published(*rest)
    if name in THREADS:
        return train_with_torch(THREADS[name], *rest)
    args = measure.parse_args(__doc__, "data_dir")
    epochs = QUICK_EPOCHS if args.quick else EPOCHS
    pythons = measure.find_pythons(["ours", "published"], THREADS)
    ways = {way: [pythons[way], __file__, way, args.data_dir, epochs] for way in pythons}
    script = [sys.executable, measure.ROOT / "train_mnist.py", "--data-dir", args.data_dir]
    ways["ours"] = [*script, "--epochs", epochs, "--logdir"]
    ratios, results = measure.compare("an epoch", ways, args.rounds, read)
    accuracy, *logged = results["ours"]
    for way, (other, *others) in results.items():
        assert abs(accuracy - other) < 0.02 and others == logged, (way, results)
    assert ratios["published"] > 5


if __name__ == "__main__":
    main()
