"""Train a small network on MNIST and watch it learn in TensorBoard.

    python train_mnist.py
    tensorboard --logdir ./logs

TensorBoard shows, while the network is still training:

- Time Series: `cross_entropy` at every step, and `train_acc` and `valid_acc` after every epoch.
  The two accuracies part where the network begins to learn its training images by heart.
- Images: `minist_first_minibatch`, the digits that each epoch began with, shuffled every time.
- Graphs: the network, three dense layers from the picture to ten scores.
- Histograms: the gradient of each parameter at the last batch of each epoch. A healthy one has its
  peak at zero, and tails; one whose scale shrinks to nothing is of a layer that no longer learns.
- Text: `mnist_data`, what the network was trained on.
"""

import os
from pathlib import Path

# Waking a second core takes longer than an operation of so small a network does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from common import SummaryWriter, cli
from common.assets import load_mnist

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd
from tqdm import tqdm

# Batches between two readings of the losses from the device: each reading waits for the device,
# and a progress bar that moves many times a second is soon enough.
READ_EVERY = 50

LOG_SUFFIX = ".mnist"  # of the log's file name, by which an earlier training is found

cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()


def parse_args():
    """Read the command line."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--batch-size", type=cli.positive_int, default=100, help="images a step")
    parser.add_argument("--epochs", type=cli.positive_int, default=10, help="passes over the data")
    parser.add_argument("--lr", type=cli.positive_float, default=0.1, help="learning rate")
    parser.add_argument("--momentum", type=cli.fraction, default=0.9, help="momentum of SGD")
    parser.add_argument("--cuda", action="store_true", help="train on GPU 0")
    parser.add_argument(
        "--log-interval", type=cli.positive_int, default=100, help="batches between two lines"
    )
    cli.add_shared_arguments(parser, "--seed", "--logdir", "--data-dir", "--offline")
    return parser.parse_args()


def build_net(ctx):
    """Build the network, its parameters named as TensorBoard will show them."""
    net = gluon.nn.HybridSequential(prefix="hybridsequential0_")
    with net.name_scope():
        net.add(
            gluon.nn.Dense(128, activation="relu"),
            gluon.nn.Dense(64, activation="relu"),
            gluon.nn.Dense(10),
        )
    net.initialize(mx.init.Xavier(magnitude=2.24), ctx=ctx)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def to_device(images, labels, ctx):
    """Return the images as (N, 1, 28, 28) float32 in [0, 1] and the labels, both on the device."""
    pixels = nd.array(images[:, np.newaxis], ctx=ctx, dtype=np.uint8)
    return pixels.astype(np.float32) / 255, nd.array(labels, ctx=ctx)


def shuffle(count, batch_size, rng, ctx):
    """Deal the indices of `count` images into batches, a row each; those left over sit out."""
    order = rng.permutation(count)[: count // batch_size * batch_size]
    return nd.array(order.reshape(-1, batch_size), ctx=ctx, dtype=np.int32)


def train_steps(net, trainer, images, labels, order):
    """Take a step for each row of `order`, a batch of indices; yield its mean loss and its hits."""
    unread = []
    for indices, batch_labels in zip(order, labels.take(order)):
        with autograd.record():
            logits = net(images.take(indices))
            losses = cross_entropy(logits, batch_labels)
        losses.backward()
        trainer.step(len(indices))
        unread.append((losses, logits, batch_labels))
        if len(unread) == READ_EVERY:
            yield from read(unread)
            unread = []
    if unread:
        yield from read(unread)


def read(batches):
    """Wait for the device, and return the mean loss and the hits of each batch."""
    losses, logits, labels = (nd.stack(*arrays) for arrays in zip(*batches))
    return zip(losses.mean(axis=1).asnumpy(), count_hits(logits, labels).asnumpy())


def count_hits(logits, labels):
    """Count, on the device, the images of each batch whose label has the highest score."""
    return (logits.argmax(axis=-1) == labels).sum(axis=-1)


def train_epoch(net, trainer, train_set, order, epoch, log_interval, sw):
    """Train on each batch of `order` and log its loss; return the accuracy on the way."""
    images, labels = train_set
    batches, batch_size = order.shape
    sw.add_image("minist_first_minibatch", images.take(order[0]), epoch)

    hits = 0
    steps = train_steps(net, trainer, images, labels, order)
    with tqdm(steps, f"epoch {epoch}", total=batches, unit="batch", disable=None) as bar:
        for batch, (loss, batch_hits) in enumerate(bar):
            step = epoch * batches + batch
            sw.add_scalar("cross_entropy", loss, step)
            if not np.isfinite(loss):
                raise cli.ScriptError(f"the loss became {loss} at step {step}: try a smaller --lr")

            hits += int(batch_hits)
            accuracy = hits / (batch_size * (batch + 1))
            bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}", refresh=False)
            if batch > 0 and batch % log_interval == 0:
                tqdm.write(f"[Epoch {epoch} Batch {batch}] Training: accuracy={accuracy:f}")
    return accuracy


def evaluate(net, images, labels):
    """Return the share of the images that the network names right."""
    return count_hits(net(images), labels).asscalar() / len(labels)


def main():
    """Train, and log everything there is to see."""
    args = parse_args()
    ctx = cli.gpu() if args.cuda else mx.cpu()
    cli.make_folder(args.logdir)
    if any(Path(args.logdir).glob(f"*{LOG_SUFFIX}")):
        cli.notice(
            f"{args.logdir} holds a training already, and TensorBoard will show this one in its "
            "place: to see both, give each a --logdir logs/NAME"
        )
    train_set, test_set, source = load_mnist(args.data_dir, args.offline)
    if args.batch_size > len(train_set[0]):
        raise cli.ScriptError(
            f"argument --batch-size: {args.batch_size} is more than the {len(train_set[0])} images",
            status=2,
        )
    train_set = to_device(*train_set, ctx)
    test_set = to_device(*test_set, ctx)

    mx.random.seed(args.seed)
    rng = np.random.default_rng(args.seed)
    net = build_net(ctx)
    trainer = gluon.Trainer(
        net.collect_params(), "sgd", {"learning_rate": args.lr, "momentum": args.momentum}
    )

    with SummaryWriter(args.logdir, flush_secs=5, filename_suffix=LOG_SUFFIX) as sw:
        sw.add_text("mnist_data", source)
        net(train_set[0][:1])  # The first forward pass is what draws the graph.
        sw.add_graph(net)

        for epoch in range(args.epochs):
            order = shuffle(len(train_set[0]), args.batch_size, rng, ctx)
            train_acc = train_epoch(net, trainer, train_set, order, epoch, args.log_interval, sw)
            for name, parameter in net.collect_params().items():
                sw.add_histogram(name, parameter.grad(), epoch, bins=1000)
            print(f"[Epoch {epoch}] Training: accuracy={train_acc:f}")
            sw.add_scalar("train_acc", train_acc, epoch)

            valid_acc = evaluate(net, *test_set)
            print(f"[Epoch {epoch}] Validation: accuracy={valid_acc:f}")
            sw.add_scalar("valid_acc", valid_acc, epoch)

    print("finished training")
    cli.tell_how_to_see(args.logdir)


if __name__ == "__main__":
    cli.run(main)
