"""Pack pictures and boxes into a RecordIO file, and read them back, as im2rec.py does."""

import os
import sys

import mxnet as mx
import numpy as np

prefix = os.path.join(sys.argv[1], "boxes")
record = mx.recordio.MXIndexedRecordIO(prefix + ".idx", prefix + ".rec", "w")
for number in range(4):
    picture = np.full((20, 30, 3), 50 * number, dtype=np.uint8)
    # Header's width, object's width, class, and the corners of a box.
    label = [2, 5, number, 0.1, 0.2, 0.3, 0.4 + 0.1 * number]
    header = mx.recordio.IRHeader(0, label, number, 0)
    record.write_idx(number, mx.recordio.pack_img(header, picture, quality=9, img_fmt=".png"))
record.close()

record = mx.recordio.MXIndexedRecordIO(prefix + ".idx", prefix + ".rec", "r")
for number in record.keys:
    header, picture = mx.recordio.unpack_img(record.read_idx(number))
    label = " ".join("%.1f" % value for value in header.label)
    print(header.id, header.flag, label, picture.shape, picture.mean())

for batch in mx.image.ImageDetIter(4, (3, 16, 24), path_imgrec=prefix + ".rec"):
    print(batch.data[0].shape, "%.2f" % batch.data[0].mean().asscalar())
    for box in np.asarray(batch.label[0])[:, 0]:
        print(" ".join("%.1f" % value for value in box))
