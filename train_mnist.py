"""Train a small network on MNIST and watch it learn in TensorBoard.

    python train_mnist.py
    tensorboard --logdir ./logs

TensorBoard shows, while the network is still training:

- Time Series: `cross_entropy` at every step; `accuracy` after every epoch, on digits trained on and
  on others: the two part where the network begins to overfit. `train_acc` is the published one,
  counted during the epoch; `valid_acc` is that of the others.
- Images: `minist_first_minibatch`, the digits that each epoch began with, shuffled every time;
  `mnist_confusion`, what is taken for what; `..._pictures`, the weights of the first layer:
  strokes that each unit looks for, or noise where a unit hardly takes part.
- Graphs: the network, three dense layers from the picture to ten scores.
- Histograms: the gradient of each parameter at the last batch of each epoch. A healthy one has its
  peak at zero, and tails; a heap that shrinks to a spike belongs to a layer that no longer learns.
- Projector: `mnist_codes`, what the second-to-last layer makes of 2,000 test digits, and
  `mnist_codes_untrained`, what it made of them before. Color by `digit`, and start t-SNE.
- HParams: the settings and the accuracy of each run, if several are below the log folder.
- Text: `mnist_data`, what the network was trained on.
"""

import contextlib
import os

# Waking a second core takes longer than an operation of so small a network does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from common import cli
from common.charts import draw_confusion, scale_each
from common.cluster import PeerWatch, compare_workers, share_weights
from common.datasets import load_mnist
from common.errors import ScriptError
from common.networks import warn_if_stuck

import mxcompat  # makes MXNet and MXBoard run on today's Python

import mxnet as mx
import numpy as np
from mxboard import SummaryWriter
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn
from tqdm import tqdm

READ_EVERY = 50  # steps between two readings of results: each waits for the device
CODES = 2000  # test digits whose codes are logged
# The projector labels points by the first column that is not all numbers.
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
HPARAMS = ("lr", "batch_size", "momentum", "epochs")  # arguments to compare runs by
LOG_SUFFIX = ".mnist"  # of the log's file name, by which an earlier training is found

cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()


def parse_args():
    """Read the command line."""
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("--batch-size", type=cli.COUNT, default=100, help="images per step")
    add("--epochs", type=cli.COUNT, default=10, help="passes over the data")
    add("--lr", type=cli.number(float, 1e-9), default=0.1, help="learning rate")
    add("--momentum", type=cli.number(float, 0, 1), default=0.9, help="momentum of SGD")
    stores = ("device", "dist_sync")
    add("--kv-store", choices=stores, default="device", help="see docs/several-machines.md")
    add("--cuda", action="store_true", help="train on GPU 0")
    add("--log-interval", type=cli.COUNT, default=100, help="batches between two lines")
    add("--seed", type=cli.SEED, default=42, help="seed of the random numbers")
    add("--logdir", type=cli.folder, default="./logs", help="folder of the log")
    add("--data-dir", type=cli.folder, default="./data", help="folder of downloads and codes")
    add("--offline", action="store_true", help="download nothing; use synthetic data instead")
    return parser.parse_args()


def check_batch_size(batch_size, images, kv):
    """Refuse a batch that the images do not fill, or that the workers cannot share."""
    problem = None
    if batch_size > len(images):
        problem = f"is more than the {len(images)} images"
    elif batch_size % kv.num_workers:
        problem = f"cannot be shared by {kv.num_workers} workers"
    if problem:
        raise ScriptError(f"argument --batch-size: {batch_size} {problem}", status=2)


def to_device(digits, ctx):
    """Return (N, 1, 28, 28) float32 images in [0, 1], on the device."""
    return nd.array(digits[:, np.newaxis], ctx, dtype="uint8").astype("float32") / 255


def build_net(ctx):
    """Build the network, its parameters named as TensorBoard will show them."""
    net = nn.HybridSequential(prefix="hybridsequential0_")
    with net.name_scope():
        net.add(nn.Dense(128, activation="relu"), nn.Dense(64, activation="relu"), nn.Dense(10))
    net.initialize(mx.init.Xavier(magnitude=2.24), ctx=ctx)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def draw_batches(images, labels, batch_size, rng, kv):
    """Return this worker's part of each full batch, in random order: indices, and labels."""
    steps = len(images) // batch_size
    shuffled = rng.permutation(len(images))[: steps * batch_size].reshape(steps, batch_size)
    order = nd.array(shuffled[:, kv.rank :: kv.num_workers], images.context, dtype="int32")
    return order, labels.take(order)


def count_correct(logits, labels):
    """Count, on the device, the images of a batch, or of each, whose label scores highest."""
    return (logits.argmax(axis=-1) == labels).sum(axis=-1)


def train_epoch(net, trainer, images, batches, batch_size):
    """Take a step per batch; yield each step's mean loss and how many images it names right."""
    unread = []
    for indices, labels in batches:
        with autograd.record():
            logits = net(images.take(indices))
            losses = cross_entropy(logits, labels)
        losses.backward()
        trainer.step(batch_size)
        unread.append((losses, logits, labels))
        if len(unread) == READ_EVERY:
            yield from read_results(unread)
            unread = []
    if unread:
        yield from read_results(unread)


def read_results(steps):
    """Wait for the device, once for several steps; return what `train_epoch` yields."""
    losses, logits, labels = (nd.stack(*arrays) for arrays in zip(*steps))
    return zip(losses.mean(axis=1).asnumpy(), count_correct(logits, labels).asnumpy())


def predict(net, images):
    """Return the digits that images are taken for."""
    return net(images).argmax(axis=1).asnumpy().astype(int)


def log_codes(tag, net, images, labels, sw):
    """Log what the 64-unit layer makes of digits, and what the network takes them for."""
    images, labels = images[:CODES], labels[:CODES]
    codes = net[1](net[0](images))
    digits, guesses = ([WORDS[n] for n in each] for each in (labels, predict(net[2], codes)))
    correct = ["yes" if digit == guess else "no" for digit, guess in zip(digits, guesses)]
    table = [("digit", "predicted", "correct"), *zip(digits, guesses, correct)]
    sw.add_embedding(tag, codes, table, images)


def log_epoch(net, seen, unseen, hparams, epoch, sw):
    """Log the last gradients, and how well digits seen and unseen in training are read now."""
    for name, parameter in net.collect_params().items():
        sw.add_histogram(name, parameter.grad(), epoch, bins=1000)
    weight = net[0].weight
    pictures = weight.data().reshape((-1, 1, 28, 28))
    sw.add_image(f"{weight.name}_pictures", scale_each(pictures), epoch)

    (images, labels), (test_images, test_labels) = seen, unseen
    taken_for = predict(net, test_images)
    train_acc = np.mean(predict(net, images) == labels)
    valid_acc = np.mean(taken_for == test_labels)
    sw.add_scalar("accuracy", {"train": train_acc, "valid": valid_acc}, epoch)
    sw.add_hparams(hparams, {"valid_acc": valid_acc}, epoch)  # a scalar too
    sw.add_image("mnist_confusion", draw_confusion(test_labels, taken_for), epoch)
    return valid_acc


def train(args):
    """Train, and log everything there is to see."""
    ctx = cli.context("gpu" if args.cuda else "cpu")
    kv = mx.kv.create(args.kv_store)
    is_first = kv.rank == 0  # gradients and weights are the same in all workers
    logdir = f"{args.logdir}/worker-{kv.rank}" if args.kv_store == "dist_sync" else args.logdir
    cli.make_log_folder(logdir, LOG_SUFFIX)
    (digits, answers), (test_digits, test_answers), source = load_mnist(args.data_dir, args.offline)
    images, labels = to_device(digits, ctx), nd.array(answers, ctx)
    count = len(test_digits)
    seen, unseen = (images[:count], answers[:count]), (to_device(test_digits, ctx), test_answers)
    check_batch_size(args.batch_size, images, kv)
    hparams = {f"--{name.replace('_', '-')}": getattr(args, name) for name in HPARAMS}
    if args.kv_store == "dist_sync":
        compare_workers(kv, {**hparams, "--seed": args.seed, "their digits": answers.tobytes()})

    mx.random.seed(args.seed)
    rng = np.random.default_rng(args.seed)
    net = build_net(ctx)
    trainer = gluon.Trainer(
        net.collect_params(),
        "sgd",
        {"learning_rate": args.lr, "momentum": args.momentum},
        kvstore=kv,
        update_on_kvstore=False,  # or else a distributed store leaves weights in grad()
    )

    with SummaryWriter(logdir, filename_suffix=LOG_SUFFIX) as sw:
        sw.add_text("mnist_data", source)
        net(images[:1])  # The first forward pass is what draws the graph.
        share_weights(trainer)
        if is_first:
            sw.add_graph(net, {"data": images[:1].shape})
            log_codes("mnist_codes_untrained", net, *unseen, sw)

        stuck = False
        for epoch in range(args.epochs):
            order, batch_labels = draw_batches(images, labels, args.batch_size, rng, kv)
            if is_first:
                # sic: the published tag
                sw.add_image("minist_first_minibatch", images.take(order[0]), epoch)

            hidden = None if is_first else True  # None: where there is no terminal
            batches = zip(order, batch_labels)
            bar = tqdm(batches, f"epoch {epoch}", len(order), unit="batch", disable=hidden)
            correct, losses = 0, []
            results = train_epoch(net, trainer, images, bar, args.batch_size)
            for step, (loss, hits) in enumerate(results):
                sw.add_scalar("cross_entropy", loss, epoch * len(order) + step)
                if not np.isfinite(loss):
                    raise ScriptError(f"the loss is {loss} at step {step}: try a smaller --lr")
                losses.append(loss)
                correct += hits
                train_acc = correct / (order.shape[1] * (step + 1))
                if is_first and step > 0 and step % args.log_interval == 0:
                    tqdm.write(f"[Epoch {epoch} Batch {step}] Training: accuracy={train_acc:f}")
            sw.add_scalar("train_acc", train_acc, epoch)

            if is_first:
                valid_acc = log_epoch(net, seen, unseen, hparams, epoch, sw)
                stuck = stuck or warn_if_stuck(net, 10, np.mean(losses[-READ_EVERY:]), epoch)
                print(f"[Epoch {epoch}] Training: accuracy={train_acc:f}")
                print(f"[Epoch {epoch}] Validation: accuracy={valid_acc:f}")

        if is_first:
            log_codes("mnist_codes", net, *unseen, sw)
            print("finished training")
            cli.tell_how_to_see(args.logdir)


def main():
    """Train alone, or with others, while their answers are waited for."""
    args = parse_args()
    with PeerWatch() if args.kv_store == "dist_sync" else contextlib.nullcontext():
        train(args)


if __name__ == "__main__":
    cli.run(main)
