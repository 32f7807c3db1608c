"""What MXNet's operators of object detection become in ONNX."""

import mxnet as mx
import numpy as np

from .onnx_ops import LAST, refuse, translates


@translates("ROIPooling")
def _roi_pooling(g, a, x, rois):
    size = a["pooled_size"]
    return g.MaxRoiPool(x, rois, pooled_shape=size, spatial_scale=a["spatial_scale"])


@translates("_contrib_ROIAlign")
def _roi_align(g, a, x, rois):
    if a["position_sensitive"] or a["aligned"]:
        refuse("position_sensitive and aligned")
    height, width = a["pooled_size"]
    image = g.reshape(g.Slice(rois, [0], [1], [1]), -1)
    maps = g.RoiAlign(
        x,
        g.Slice(rois, [1], [5], [1]),
        g.cast(g.Relu(image), np.int64),
        output_height=height,
        output_width=width,
        sampling_ratio=max(0, a["sample_ratio"]),
        spatial_scale=a["spatial_scale"],
    )
    # Regions of no picture are zeros.
    return maps * g.cast(g.reshape(image, -1, 1, 1, 1) >= 0, x.dtype)


def _columns(g, x, first, end):
    """Take columns, the last axis, of a tensor."""
    return g.Slice(x, [first], [end], [-1])


def _to_corners(g, boxes):
    center, half = _columns(g, boxes, 0, 2), _columns(g, boxes, 2, 4) / 2
    return g.Concat(center - half, center + half, axis=-1)


def _to_centers(g, boxes):
    low, high = _columns(g, boxes, 0, 2), _columns(g, boxes, 2, 4)
    return g.Concat((low + high) / 2, high - low, axis=-1)


def _rows(g, x, order):
    """Take rows of (B, N, ...) in a (B, K) order."""
    return g.GatherND(x, g.Unsqueeze(order, [2]), batch_dims=1)


def _top(g, x, k):
    return g.TopK(x, [k], axis=1, outputs=2, dtypes=(x.dtype, np.int64))


def _not_suppressed(g, boxes, scores, k, overlap, least):
    """Return which of (B, K, 4) boxes non-maximum suppression leaves, (B, K) of 0 and 1 as int64.

    The scores (B, C, K) count by class; what is not above `least` is left out.
    """
    limits = (np.array([k]), np.float32([overlap]), np.float32([least]))
    boxes, scores = (g.cast(each, np.float32) for each in (boxes, scores))
    left = g.NonMaxSuppression(boxes, scores, *limits)
    places = g.Gather(left, np.array([0, 2]), axis=1)
    ones = g.Expand(np.array(1), g.Slice(g.Shape(left), [0], [1]))
    shape = g.Slice(g.Shape(boxes), [0], [2])
    return g.ScatterND(g.Expand(np.array(0), shape), places, ones)


@translates("_contrib_box_nms")
def _box_nms(g, a, x):
    count, width = g.size(x, -2), g.size(x, -1)
    start, score, least = a["coord_start"], a["score_index"], a["valid_thresh"]
    number, background = a["id_index"], a["background_id"]
    k = min(a["topk"], count) if a["topk"] > 0 else count
    rows = g.reshape(x, -1, count, width)
    scores, ids = (g.Squeeze(_columns(g, rows, i, i + 1), [2]) for i in (score, max(number, 0)))
    is_valid = scores > least
    if number >= 0 and background >= 0:
        is_valid = is_valid & ~g.Equal(ids, background)
    lowest = np.array(np.finfo(x.dtype).min, x.dtype)
    scores, order = _top(g, g.Where(is_valid, scores, lowest), k)
    rows = _rows(g, rows, order)
    boxes = _columns(g, rows, start, start + 4)
    corners = boxes if a["in_format"] == "corner" else _to_corners(g, boxes)
    apart = corners
    if number >= 0 and not a["force_suppress"]:
        # Boxes of different classes are moved apart, so that none suppresses the other.
        reach = g.ReduceMax(corners, keepdims=0) - g.ReduceMin(corners, keepdims=0) + 1
        apart = corners + _columns(g, rows, number, number + 1) * reach
    left = _not_suppressed(g, apart, g.Unsqueeze(scores, [1]), k, a["overlap_thresh"], least)
    if a["out_format"] != a["in_format"]:
        boxes = corners if a["out_format"] == "corner" else _to_centers(g, boxes)
        rows = g.Concat(
            _columns(g, rows, 0, start), boxes, _columns(g, rows, start + 4, LAST), axis=-1
        )
    # What is left comes first, the rest is -1.
    is_left, order = _top(g, left * np.arange(k, 0, -1), k)
    rows = g.Where(g.Unsqueeze(is_left > 0, [2]), _rows(g, rows, order), -1)
    padded = g.Pad(rows, [0, 0, 0, 0, count - k, 0], -1)
    return g.Reshape(padded, g.Shape(x))


@translates("_contrib_MultiBoxDetection")
def _multibox_detection(g, a, x, deltas, anchors):
    classes, count = g.size(x, 1) - 1, g.size(x, 2)
    overlap, limit = a["nms_threshold"], a["nms_topk"]
    if a["background_id"] != 0 or not 0 < overlap <= 1:
        refuse("a background_id other than 0, or an nms_threshold that turns suppression off")
    variances = np.float32(a["variances"])
    boxes = _decode(g, g.reshape(deltas, 0, -1, 4) * variances, _to_centers(g, anchors))
    if a["clip"]:
        boxes = g.Min(g.Max(boxes, 0), 1)
    probabilities = g.Slice(x, [1], [LAST], [1])
    best = g.ReduceMax(probabilities, axes=[1], keepdims=0)
    ids = g.cast(g.ArgMax(probabilities, axis=1, keepdims=0), x.dtype)
    is_valid = best >= a["threshold"]
    rows = g.Concat(g.Unsqueeze(ids, [2]), g.Unsqueeze(best, [2]), boxes, axis=2)
    scores, order = _top(g, g.Where(is_valid, best, -1), count)
    found = g.Unsqueeze(scores >= 0, [2])
    unsorted, rows = rows, _rows(g, rows, order)
    if 0 < limit < count:
        # MXNet leaves what is beyond the limit in the order in which it found it.
        is_within = np.arange(count) < limit
        _, order = _top(g, g.Where(is_valid, np.arange(count, 0, -1), np.array(0)), count)
        rows = g.Where(is_within[:, None], rows, _rows(g, unsorted, order))
        scores = g.Where(is_within, scores, -1)
    by_class = g.Unsqueeze(scores, [1])
    if not a["force_suppress"]:
        numbers = np.arange(classes, dtype=x.dtype).reshape(1, -1, 1)
        is_class = g.Equal(g.transpose(_columns(g, rows, 0, 1), 0, 2, 1), numbers)
        by_class = g.Where(is_class, by_class, -1)
    left = _not_suppressed(
        g, _columns(g, rows, 2, 6), by_class, count, np.nextafter(np.float32(overlap), 0), -0.5
    )
    ids = g.Where(g.Unsqueeze(left > 0, [2]), _columns(g, rows, 0, 1), -1)
    rows = g.Concat(ids, _columns(g, rows, 1, 6), axis=2)
    return g.Where(found, rows, -1)


def _decode(g, deltas, centers):
    """Shift and stretch boxes, which are centers and sizes; return corners."""
    center, size = _columns(g, centers, 0, 2), _columns(g, centers, 2, 4)
    center = _columns(g, deltas, 0, 2) * size + center
    half = g.Exp(_columns(g, deltas, 2, 4)) * size / 2
    return g.Concat(center - half, center + half, axis=-1)


@translates("_contrib_box_decode")
def _box_decode(g, a, x, anchors):
    deltas = x * np.array([a[f"std{i}"] for i in range(4)], x.dtype)
    if a["clip"] > 0:
        growth = g.Min(_columns(g, deltas, 2, 4), a["clip"])
        deltas = g.Concat(_columns(g, deltas, 0, 2), growth, axis=-1)
    is_corner = a["format"] == "corner"
    return _decode(g, deltas, _to_centers(g, anchors) if is_corner else anchors)


@translates("_contrib_box_iou")
def _box_iou(g, a, x, y):
    if a["format"] != "corner":
        x, y = _to_corners(g, x), _to_corners(g, y)
    if not x.shape or x.rank != 2 or y.rank != 2:
        refuse("boxes that are no table of corners")
    x, y = g.Unsqueeze(x, [1]), g.Unsqueeze(y, [0])
    low = g.Max(_columns(g, x, 0, 2), _columns(g, y, 0, 2))
    high = g.Min(_columns(g, x, 2, 4), _columns(g, y, 2, 4))
    shared = g.ReduceProd(g.Max(high - low, 0), axes=[2], keepdims=0)
    areas = [
        g.ReduceProd(_columns(g, each, 2, 4) - _columns(g, each, 0, 2), axes=[2], keepdims=0)
        for each in (x, y)
    ]
    return shared / (areas[0] + areas[1] - shared)


@translates("_contrib_MultiBoxPrior")
def _multibox_prior(g, a, x):
    maps = mx.nd.zeros((1, 1, g.size(x, 2), g.size(x, 3)))
    names = ("sizes", "ratios", "steps", "offsets", "clip")
    return mx.nd.contrib.MultiBoxPrior(maps, **{name: a[name] for name in names}).asnumpy()
