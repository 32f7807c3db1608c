"""Walk through the codes of pictures in TensorBoard's projector.

    python get_convnet_codes.py
    python plot_convnet_embedding.py
    tensorboard --logdir ./logs

A network's code of a picture is what it has made of it just before it names it: 1,000 numbers here.
TensorBoard shows what they are worth:

- Projector: `resnet_152_image_codes`, each picture at the place of its code. PCA spreads them along
  the three directions in which codes differ most; t-SNE puts pictures next to each other whose
  codes are alike. Search for a class to see whether its pictures are together.
- Images: `imagenet_2304_images`, all the pictures.
- Text: `codes_data`, which pictures and which network these are, and `codes_neighbours`, how often
  pictures with similar codes are of one class, which is also printed.

Codes of another network:

    python plot_convnet_embedding.py --model NAME
"""

import re
from pathlib import Path

from common import SummaryWriter, cli
from common.codes import DEFAULT_MODEL, load_codes, neighbour_share

NEIGHBOURS = 5  # a handful: in a set of 2,304, classes may have few pictures


def parse_args():
    """Read the command line."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="network, or prefix of a checkpoint, of the codes"
    )
    cli.add_shared_arguments(parser, "--logdir", "--data-dir")
    return parser.parse_args()


def describe(codes, description):
    """Say as Markdown what the codes are codes of."""
    count, size = codes.shape
    return (
        f"{count:,} codes of {size:,} numbers\n\n"
        f"- Pictures: {description['pictures']}\n"
        f"- Weights: {description['weights']}\n"
        f"- Precision: {describe_precision(description)}\n"
        f"- Seed: {description['seed']}\n"
    )


def describe_precision(description):
    """Say in which precision the network ran, and what that cost."""
    precision, cosine = description["precision"], description.get("cosine")
    if cosine is None:
        return precision
    return f"{precision}; the mean cosine of its codes with those of float32 is {cosine:.4f}"


def describe_neighbours(codes, labels):
    """Say how well the codes group, or why that cannot be said."""
    figures = neighbour_share(codes, labels, NEIGHBOURS)
    if figures is None:
        return "No two pictures are of one class: there is nothing to group."
    share, chance = figures
    return (
        f"Of the {NEIGHBOURS} nearest neighbours of a picture, {share:.1%} are of its class; "
        f"by chance it would be {chance:.1%}."
    )


def without_id(class_name):
    """Return what follows the id in a line of synset.txt, and any other name as it is."""
    return re.sub(r"^n\d{8}\s+", "", class_name)


def main():
    """Read the codes, and log them with their pictures and names."""
    args = parse_args()
    model = Path(args.model).name
    codes, thumbnails, labels, description = load_codes(args.data_dir, model)
    names = [without_id(name) for name in description["class_names"]]
    neighbours = describe_neighbours(codes, labels)
    tag = "resnet_152_image_codes" if model == DEFAULT_MODEL else f"{model}_image_codes"
    cli.make_folder(args.logdir)

    with SummaryWriter(args.logdir, flush_secs=5) as sw:
        sw.add_text("codes_data", describe(codes, description))
        sw.add_text("codes_neighbours", neighbours)
        sw.add_image(f"imagenet_{len(codes)}_images", thumbnails)
        sw.add_embedding(
            tag=tag, embedding=codes, labels=[names[label] for label in labels], images=thumbnails
        )

    print(neighbours)
    print("A TensorBoard that is already running does not look for embeddings again: restart it")
    cli.tell_how_to_see(args.logdir)


if __name__ == "__main__":
    cli.run(main)
