"""Measure an epoch of `train_mnist.py` against the way it used to be written.

    python benchmarks/train_mnist.py DATA_DIR

The old way: a Python transform for every image through a `DataLoader`, every loss and every
accuracy read back at every step, MXBoard's own event writer and picture grid. The two run in turn,
three times; an epoch is what lies between two points of `valid_acc` in their logs.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
# As it is before common sets what the programs to be measured set themselves.
ENVIRONMENT = dict(os.environ)

import common  # noqa: E402, F401

import mxboard.event_file_writer  # noqa: E402
import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
from mxnet import autograd, gluon  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

BATCH_SIZE, EPOCHS, ROUNDS = 100, 3, 3


def to_float(image, label):
    """Turn one (28, 28, 1) uint8 image into 784 numbers in [0, 1]."""
    return image.reshape((-1,)).astype(np.float32) / 255, label


def train_as_published(data_dir, logdir):
    """Train and log, one image, one reading and one event at a time."""
    mxboard.writer.EventFileWriter = mxboard.event_file_writer.EventFileWriter
    train_data, test_data = (
        gluon.data.DataLoader(
            gluon.data.vision.MNIST(data_dir, train, transform=to_float),
            BATCH_SIZE,
            shuffle=train,
            last_batch="discard" if train else "keep",
        )
        for train in (True, False)
    )
    net = gluon.nn.HybridSequential(prefix="hybridsequential0_")
    with net.name_scope():
        net.add(gluon.nn.Dense(128, "relu"), gluon.nn.Dense(64, "relu"), gluon.nn.Dense(10))
    net.hybridize()
    net.initialize(mx.init.Xavier(magnitude=2.24))
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9})
    cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()

    step = 0
    with mxboard.SummaryWriter(logdir, flush_secs=5, verbose=False) as sw:
        for epoch in range(EPOCHS):
            train_acc, valid_acc = mx.metric.Accuracy(), mx.metric.Accuracy()
            for batch, (images, labels) in enumerate(train_data):
                with autograd.record():
                    logits = net(images)
                    loss = cross_entropy(logits, labels)
                loss.backward()
                sw.add_scalar("cross_entropy", loss.mean().asscalar(), step)
                step += 1
                trainer.step(BATCH_SIZE)
                train_acc.update([labels], [logits])
                if batch == 0:
                    pictures = images.reshape((BATCH_SIZE, 1, 28, 28))
                    sw.add_image("minist_first_minibatch", pictures, epoch)
            if epoch == 0:
                sw.add_graph(net)
            for name, parameter in net.collect_params().items():
                sw.add_histogram(name, parameter.grad(), epoch, bins=1000)
            for images, labels in test_data:
                valid_acc.update([labels], [net(images)])
            sw.add_scalar("train_acc", train_acc.get()[1], epoch)
            sw.add_scalar("valid_acc", valid_acc.get()[1], epoch)


def seconds_per_epoch(command):
    """Run a command that logs to the folder it is given last; return the median."""
    with tempfile.TemporaryDirectory() as logdir:
        command = [sys.executable, *command, logdir]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        log = EventAccumulator(logdir)
        log.Reload()
        times = [event.wall_time for event in log.Scalars("valid_acc")]
    return statistics.median(np.diff(times))


def main():
    """Run both in turn and print the ratio of their medians."""
    if len(sys.argv) > 2:
        train_as_published(*sys.argv[1:])
        return
    (data_dir,) = sys.argv[1:]
    ours = [ROOT / "train_mnist.py", "--data-dir", data_dir, "--epochs", str(EPOCHS), "--logdir"]
    rounds = [
        (seconds_per_epoch(ours), seconds_per_epoch([__file__, data_dir])) for _ in range(ROUNDS)
    ]
    new, old = map(statistics.median, zip(*rounds))
    print(f"an epoch: {new:.2f} s; as published: {old:.2f} s; {old / new:.1f} times as fast")


if __name__ == "__main__":
    main()
