"""Walk through the codes of pictures in TensorBoard's projector.

    python get_convnet_codes.py
    python plot_convnet_embedding.py [--model PREFIX]
    tensorboard --logdir ./logs

You will see:

- Projector: `resnet_152_image_codes`, each picture at the place of its code. PCA spreads them along
  the three directions in which codes differ most; t-SNE puts pictures next to each other whose
  codes are alike. Search for a class by its `name`; color by `correct` to see the mistakes.
- Images: `imagenet_2304_images`, all the pictures.
- Text: `codes_data`, which pictures and which network these are, and `codes_neighbours`, how often
  pictures with similar codes are of one class.
"""

from pathlib import Path

import mxcompat  # makes MXNet and MXBoard run on today's Python

from mxboard import SummaryWriter

from common import cli
from common.codes import DEFAULT_MODEL, load_codes, neighbor_precision, tabulate
from common.errors import ScriptError

NEIGHBORS = 5  # a handful: in a set of 2,304, classes may have few pictures


def parse_args():
    """Read the command line."""
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("--model", type=cli.prefix, default=DEFAULT_MODEL, help="or your own checkpoint's prefix")
    add("--logdir", type=cli.path, default="./logs", help="folder of the log")
    add("--data-dir", type=cli.path, default="./data", help="folder of downloads and codes")
    return parser.parse_args()


def describe(codes, description, verdict):
    """Say as Markdown what the codes are codes of."""
    precision = description.precision
    if description.cosine is not None:
        cosine = f"{description.cosine:.4f}"
        precision += f"; the mean cosine of its codes with those of float32 is {cosine}"
    return (
        f"{len(codes):,} codes of {codes.shape[1]:,} numbers\n\n"
        f"- Pictures: {description.pictures}\n"
        f"- Weights: {description.weights}\n"
        f"- Precision: {precision}\n"
        f"- Seed: {description.seed}\n"
        f"- Predictions: {verdict or 'none, for the codes are not scores of known classes.'}\n"
    )


def describe_neighbors(codes, labels):
    """Say how well the codes group, or why that cannot be said."""
    figures = neighbor_precision(codes, labels, NEIGHBORS)
    if figures is None:
        reason = "no two" if len(set(labels)) > 1 else "all"
        return f"There is nothing to group: {reason} pictures are of one class."
    found, by_chance = (f"{figure:.1%}" for figure in figures)
    return (
        f"Of the {NEIGHBORS} nearest neighbors of a picture, {found} are of its class; "
        f"by chance it would be {by_chance}."
    )


def main():
    """Read the codes, and log them with their pictures and names."""
    args = parse_args()
    model = Path(args.model).name
    codes, thumbnails, labels, description = load_codes(args.data_dir, model)
    if min(codes.shape) < 2:
        raise ScriptError(
            f"the projector needs 2 or more codes of 2 or more numbers, not {codes.shape}: run "
            "get_convnet_codes.py with more pictures or with --code-layer"
        )
    table, verdict = tabulate(codes, labels, description)
    neighbors = describe_neighbors(codes, labels)
    name = "resnet_152" if model == DEFAULT_MODEL else model
    cli.make_folder(args.logdir)

    with SummaryWriter(args.logdir) as sw:
        sw.add_text("codes_data", describe(codes, description, verdict))
        sw.add_text("codes_neighbours", neighbors)
        sw.add_image(f"imagenet_{len(codes)}_images", thumbnails)
        sw.add_embedding(f"{name}_image_codes", codes, table, thumbnails)

    print(*filter(None, (verdict, neighbors)), sep="\n")
    print("If TensorBoard already shows this folder, restart it: it looks for embeddings only once")
    cli.tell_how_to_see(args.logdir)


if __name__ == "__main__":
    cli.run(main)
