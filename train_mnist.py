"""Train a small network on MNIST and watch it learn in TensorBoard.

    python train_mnist.py
    tensorboard --logdir ./logs

You will see, while the network is still training:

- Time Series: `cross_entropy` at every step; after every epoch `accuracy`, on training digits and
  on test digits, `train_acc`, counted during the epoch, and `valid_acc`.
- Images: `minist_first_minibatch`, the digits that each epoch began with; `mnist_confusion`, the
  true digit by row and the prediction by column; `..._pictures`, the first layer's weights.
- Graphs: the network, three dense layers from the picture to ten scores.
- Histograms: the gradient of each parameter at the last batch of each epoch.
- Projector: `mnist_codes`, 2,000 test digits placed by the 64 outputs of the second-to-last layer,
  and `mnist_codes_untrained`, the same before the first step.
- HParams: settings and accuracy of each run below the log folder.
- Text: `mnist_data`, which digits these are.
"""

import os

# Waking a second core takes longer than an operation of so small a network does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import mxcompat  # makes MXNet and MXBoard run on today's Python
from mxcompat.downloads import Files

import mxnet as mx
import numpy as np
from mxboard import SummaryWriter
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn
from tqdm import tqdm

from common import cli
from common.charts import draw_confusion, scale_each
from common.datasets import load_mnist
from common.errors import ScriptError, warn

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
    add("--logdir", type=cli.path, default="./logs", help="folder of the log")
    add("--data-dir", type=cli.path, default="./data", help="folder of downloads and codes")
    add("--offline", action="store_true", help="download nothing; use synthetic data instead")
    args = parser.parse_args()
    if args.kv_store == "dist_sync" and "DMLC_ROLE" not in os.environ:
        parser.error("argument --kv-store: set the variables in docs/several-machines.md first")
    return args


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


def shuffle(count, batch_size, rng, kv):
    """Return a random order of indices, (steps, images per step); of each step this worker's."""
    steps = count // batch_size
    order = rng.permutation(count)[: steps * batch_size].reshape(steps, batch_size)
    return order[:, kv.rank :: kv.num_workers]


def train_epoch(net, trainer, images, batches, batch_size):
    """Take a step per batch; return each step's mean loss and how many images it names right."""
    losses, hits = [], []
    for indices, labels in batches:
        with autograd.record():
            logits = net(images.take(indices))
            loss = cross_entropy(logits, labels)
        loss.backward()
        trainer.step(batch_size)
        losses.append(loss)
        hits.append(logits.argmax(axis=1) == labels)
    # Once, because each reading waits for the device.
    return nd.stack(*losses).mean(axis=1).asnumpy(), nd.stack(*hits).sum(axis=1).asnumpy()


def warn_if_stuck(net, loss, epoch):
    """Warn if an epoch ended with a loss no better than that of guessing among ten digits."""
    if loss > 0.99 * np.log(10):
        gradients = [parameter.grad() for parameter in net.collect_params().values()]
        zero = sum(not gradient.asnumpy().any() for gradient in gradients)
        warn(
            f"epoch {epoch} ends with a loss of {loss:.3f}, no better than guessing, and {zero} of "
            f"{len(gradients)} gradients are all zero: try another --lr"
        )


def predict(net, images):
    """Return the digits that images are taken for."""
    return net(images).argmax(axis=1).asnumpy().astype(int)


def log_codes(tag, net, images, labels, sw):
    """Log the 64 outputs of the second-to-last layer, and what each digit is taken for."""
    images, labels = images[:CODES], labels[:CODES]
    codes = net[1](net[0](images))
    digits, guesses = ([WORDS[n] for n in each] for each in (labels, predict(net[2], codes)))
    correct = ["yes" if digit == guess else "no" for digit, guess in zip(digits, guesses)]
    table = [("digit", "predicted", "correct"), *zip(digits, guesses, correct)]
    sw.add_embedding(tag, codes, table, images)


def log_epoch(net, seen, unseen, hparams, epoch, sw):
    """Log gradients and weights, and how well digits seen and unseen in training are read now."""
    # Those of the last batch: the next epoch's first one overwrites them.
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


def main():
    """Train, and log everything there is to see."""
    args = parse_args()
    ctx = cli.context("gpu" if args.cuda else "cpu")
    kv = mx.kv.create(args.kv_store)
    quiet = kv.rank > 0  # of several workers, all log and one prints
    logdir = f"{args.logdir}/worker-{kv.rank}" if args.kv_store == "dist_sync" else args.logdir
    cli.make_log_folder(logdir, LOG_SUFFIX)
    files = Files(args.data_dir, args.offline)
    (digits, answers), (test_digits, test_answers), source = load_mnist(files)
    if args.batch_size > len(digits) or args.batch_size % kv.num_workers:
        problem = f"does not fit {len(digits)} images and {kv.num_workers} workers"
        raise ScriptError(f"argument --batch-size: {args.batch_size} {problem}", status=2)
    images, labels = to_device(digits, ctx), nd.array(answers, ctx)
    count = len(test_digits)
    seen, unseen = (images[:count], answers[:count]), (to_device(test_digits, ctx), test_answers)
    hparams = {f"--{name.replace('_', '-')}": getattr(args, name) for name in HPARAMS}

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
        # Hands out the first worker's weights; in the first step gradients might overtake them.
        trainer.save_states(os.devnull)
        nd.waitall()
        sw.add_graph(net, {"data": images[:1].shape})
        log_codes("mnist_codes_untrained", net, *unseen, sw)

        for epoch in range(args.epochs):
            order = nd.array(shuffle(len(images), args.batch_size, rng, kv), ctx, dtype="int32")
            sw.add_image("minist_first_minibatch", images.take(order[0]), epoch)  # sic

            batches = zip(order, labels.take(order))
            hidden = quiet or None  # None: where there is no terminal
            bar = tqdm(batches, f"epoch {epoch}", len(order), unit="batch", disable=hidden)
            losses, hits = train_epoch(net, trainer, images, bar, args.batch_size)
            train_accs = hits.cumsum() / (order.shape[1] * np.arange(1, len(order) + 1))
            for step, loss in enumerate(losses):
                sw.add_scalar("cross_entropy", loss, epoch * len(order) + step)
                if not np.isfinite(loss):
                    raise ScriptError(f"the loss is {loss} at step {step}: try a smaller --lr")
                if step > 0 and not quiet and step % args.log_interval == 0:
                    print(f"[Epoch {epoch} Batch {step}] Training: accuracy={train_accs[step]:f}")
            sw.add_scalar("train_acc", train_accs[-1], epoch)

            valid_acc = log_epoch(net, seen, unseen, hparams, epoch, sw)
            if not quiet:
                warn_if_stuck(net, losses[-50:].mean(), epoch)
                print(f"[Epoch {epoch}] Training: accuracy={train_accs[-1]:f}")
                print(f"[Epoch {epoch}] Validation: accuracy={valid_acc:f}")

        log_codes("mnist_codes", net, *unseen, sw)

    if not quiet:
        print("finished training")
        cli.tell_how_to_see(args.logdir)


if __name__ == "__main__":
    cli.run(main)
