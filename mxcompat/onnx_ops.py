"""What each of MXNet's operators becomes in ONNX.

A translation takes the graph, the operator's attributes (those not given have MXNet's defaults) and
its inputs, and returns its outputs; the graph casts them to the types that MXNet's have. Arrays and
numbers among its terms become constants. Operators of object detection are in `onnx_detection`.
"""

import math
from functools import partial

import numpy as np

from .checkpoints import HEADS

# What is never computed in advance.
RANDOM = {"_random_uniform_like", "_random_normal_like", "_sample_multinomial"}
TRANSLATIONS = {}
LAST = 2**31 - 1  # the end of an axis of any size


def register(table):
    """Add translations; a key is the names of one or several operators."""
    for names, translation in table.items():
        TRANSLATIONS.update(dict.fromkeys(names.split(), translation))


def translates(names):
    """Register a function as the translation of these operators."""
    return lambda function: register({names: function}) or function


def refuse(what):
    """Say that ONNX has no words for the operator with `what`."""
    raise NotImplementedError(what)


def _axes(value, rank):
    return [axis % rank for axis in value or ()]


def _filled(g, value, x, shape):
    """Fill a shape, a tensor, with a number of the type of `x`."""
    return g.Expand(np.array(value, x.dtype), shape)


# Of one input, without attributes.


def _op(name):
    return lambda g, *inputs: g.node(name, *inputs)


SAME = "tanh cos sin tan sigmoid relu exp log sqrt abs ceil floor reciprocal erf sign sinh cosh"
UNARY = {
    **{name: _op(name.capitalize()) for name in (*SAME.split(), "softsign")},
    **{f"arc{name}": _op(f"A{name}") for name in ("cos", "sin", "tan", "cosh", "sinh", "tanh")},
    "absolute": _op("Abs"),
    "negative": _op("Neg"),
    "softrelu": _op("Softplus"),
    "square": lambda g, x: x * x,
    "rsqrt": lambda g, x: 1 / g.Sqrt(x),
    "cbrt": lambda g, x: g.Sign(x) * abs(x) ** (1 / 3),
    "rcbrt": lambda g, x: g.Sign(x) / abs(x) ** (1 / 3),
    "expm1": lambda g, x: g.Exp(x) - 1,
    "log1p": lambda g, x: g.Log(x + 1),
    "log2": lambda g, x: g.Log(x) / math.log(2),
    "log10": lambda g, x: g.Log(x) / math.log(10),
    "degrees": lambda g, x: x * (180 / math.pi),
    "radians": lambda g, x: x * (math.pi / 180),
    "round": lambda g, x: g.Sign(x) * g.Floor(abs(x) + 0.5),  # halves away from zero
    "rint": lambda g, x: g.Ceil(x - 0.5),  # halves down
    **dict.fromkeys(("fix", "trunc"), lambda g, x: g.Sign(x) * g.Floor(abs(x))),
}


def _unary(function, g, a, x):
    return function(g, g.cast(x, g.outputs[0][1]))


for _name, _function in UNARY.items():
    register({f"{_name} _npi_{_name} _npx_{_name}": partial(_unary, _function)})

# Of two inputs, or one and a number: the names that MXNet's operators are made from.


def _modulo(g, x, y):
    """Compute a remainder of the divisor's sign, which is 0 where the divisor is."""
    remainder = g.Mod(x, y, fmod=1)
    remainder = g.Where(remainder * y < 0, remainder + y, remainder)
    return g.Where(g.Equal(y, 0), 0, remainder)


def _logical(op, g, x, y):
    return g.node(op, g.cast(x, bool), g.cast(y, bool))


ARITHMETIC = {
    "add plus grad_add": _op("Add"),
    "sub minus subtract": _op("Sub"),
    "mul multiply": _op("Mul"),
    "div true_divide": _op("Div"),
    "power": _op("Pow"),
    "mod": _modulo,
    "maximum": _op("Max"),
    "minimum": _op("Min"),
    "hypot": lambda g, x, y: g.Sqrt(x * x + y * y),
}
COMPARISONS = {
    "equal": _op("Equal"),
    "not_equal": lambda g, x, y: ~g.Equal(x, y),
    "greater": _op("Greater"),
    "greater_equal": _op("GreaterOrEqual"),
    "lesser less": _op("Less"),
    "lesser_equal less_equal": _op("LessOrEqual"),
    **{f"logical_{name}": partial(_logical, name.capitalize()) for name in ("and", "or", "xor")},
}


def _register_binary(name, function, is_arithmetic):
    def translate(g, a, x, y):
        dtype = g.outputs[0][1] if is_arithmetic else np.result_type(x.dtype, y.dtype)
        return function(g, g.cast(x, dtype), g.cast(y, dtype))

    def with_scalar(g, a, x, is_reversed=False):
        x = g.cast(x, g.outputs[0][1] if is_arithmetic else x.dtype)
        scalar = g.tensor(a["scalar"], x.dtype)
        return function(g, scalar, x) if is_reversed else function(g, x, scalar)

    register(
        {
            f"_{name} elemwise_{name} broadcast_{name} _npi_{name}": translate,
            f"_{name}_scalar _npi_{name}_scalar": with_scalar,
            f"_r{name}_scalar _npi_r{name}_scalar": lambda g, a, x: with_scalar(g, a, x, True),
        }
    )


for _table in (ARITHMETIC, COMPARISONS):
    for _names, _function in _table.items():
        for _name in _names.split():
            _register_binary(_name, _function, _table is ARITHMETIC)

# Layers


def _spatial(a, x, name, default):
    """Return an attribute of a window, one number for each axis of a map."""
    return a.get(name) or (default,) * (x.rank - 2)


def _window(a, x):
    """Return what ONNX wants to know of a window."""
    if a["layout"] not in (None, "NCW", "NCHW", "NCDHW"):
        refuse(f"the layout {a['layout']}")
    return {
        "kernel_shape": a["kernel"],
        "strides": _spatial(a, x, "stride", 1),
        "dilations": _spatial(a, x, "dilate", 1),
        "pads": _spatial(a, x, "pad", 0) * 2,
        "group": a.get("num_group", 1),
    }


@translates("Deconvolution")
def _deconvolution(g, a, x, *weights):
    if any(a["target_shape"]):
        refuse("a target_shape")  # which MXNet, with oneDNN, hardly ever computes either
    return g.ConvTranspose(x, *weights, output_padding=_spatial(a, x, "adj", 0), **_window(a, x))


@translates("FullyConnected")
def _fully_connected(g, a, x, weight, bias=None):
    if a["flatten"] or x.rank == 2:
        return g.Gemm(x if x.rank == 2 else g.Flatten(x), weight, bias, transB=1)
    product = g.MatMul(x, g.transpose(weight, 1, 0))
    return product if bias is None else product + bias


@translates("BatchNorm BatchNorm_v1 _contrib_SyncBatchNorm")
def _batch_norm(g, a, x, gamma, *others):
    if a["fix_gamma"]:
        gamma = np.ones(gamma.shape, x.dtype)  # whatever is stored
    scales = [g.cast(g.tensor(each), x.dtype) for each in (gamma, *others)]
    axis = a.get("axis", 1) % x.rank
    # A momentum of 1 leaves the means alone: onnx's evaluator updates them, as in training.
    options = {"epsilon": a["eps"], "momentum": 1.0}
    x = _swap(g, x, 1, axis)
    result = g.BatchNormalization(x, *scales, **options)
    result.shape = x.shape
    return _swap(g, result, 1, axis)


def _swap(g, x, first, second):
    """Exchange two axes."""
    order = list(range(x.rank))
    order[first], order[second] = order[second], order[first]
    return x if order == sorted(order) else g.transpose(x, *order)


def _instance_norm(g, a, x, *scales):
    return g.InstanceNormalization(x, *scales, epsilon=a["eps"])


@translates("GroupNorm")
def _group_norm(g, a, x, *scales):
    groups = g.reshape(x, 0, a["num_groups"], -1)
    return g.Reshape(_instance_norm(g, a, groups, *scales), g.Shape(x))


@translates("LayerNorm")
def _layer_norm(g, a, x, gamma, beta):
    axis = a["axis"] % x.rank
    centered = x - g.ReduceMean(x, axes=[axis])
    deviation = g.Sqrt(g.ReduceMean(centered * centered, axes=[axis]) + a["eps"])
    sizes = [-1] + [1] * (x.rank - 1 - axis)
    return centered / deviation * g.reshape(gamma, *sizes) + g.reshape(beta, *sizes)


@translates("L2Normalization")
def _l2_normalization(g, a, x):
    axes = {"channel": [1], "spatial": list(range(2, x.rank)), "instance": list(range(1, x.rank))}
    squares = g.ReduceSum(x * x, axes[a["mode"]], keepdims=1)
    return x / g.Sqrt(squares + a["eps"])


@translates("LeakyReLU")
def _leaky_relu(g, a, x, gamma=None):
    kind, slope = a["act_type"], a["slope"]
    if kind == "prelu":
        # One slope for each channel, or one for all.
        return g.PRelu(x, g.reshape(gamma, -1, *[1] * (x.rank - 2)))
    if kind == "gelu":
        return x * 0.5 * (g.Erf(x / math.sqrt(2)) + 1)
    if kind == "rrelu":
        slope = (a["lower_bound"] + a["upper_bound"]) / 2
    if kind == "selu":
        return g.Selu(x)
    return g.Elu(x, alpha=slope) if kind == "elu" else g.LeakyRelu(x, alpha=slope)


def _softmax(op, g, a, x, length=None, sign=1):
    axis, divisor = a["axis"] % x.rank, sign * float(a["temperature"] or 1)
    scores = x if divisor == 1 else x / divisor
    if length is None:
        return g.node(op, scores, axis=axis)
    places = g.reshape(g.count(g.dim(x, axis)), -1, *[1] * (x.rank - 1 - axis))
    is_inside = places < g.Unsqueeze(g.cast(length, np.int64), [axis])
    scores = g.Where(is_inside, scores, float(np.finfo(x.dtype).min))
    return g.node(op, scores, axis=axis) * g.cast(is_inside, x.dtype)


@translates("Pooling")
def _pooling(g, a, x):
    kind, power = a["pool_type"], a["p_value"]
    terms = x**power if kind == "lp" else x
    if not a["global_pool"]:
        result = _pool_windows(g, a, x, terms, kind)
    elif kind in ("sum", "lp"):
        result = g.ReduceSum(terms, list(range(2, x.rank)), keepdims=1)
    else:
        result = g.GlobalMaxPool(x) if kind == "max" else g.GlobalAveragePool(x)
    return result ** (1 / power) if kind == "lp" else result


def _pool_windows(g, a, x, terms, kind):
    """Return the maxima, means or sums of windows."""
    window = {name: _window(a, x)[name] for name in ("kernel_shape", "strides", "pads")}
    kernel, stride, pad = window["kernel_shape"], window["strides"], _spatial(a, x, "pad", 0)
    axes, is_full = range(2, x.rank), a["pooling_convention"] == "full"
    if is_full and kind == "max" and None in x.shape[2:]:
        return g.MaxPool(x, ceil_mode=1, **window)
    more = [0] * len(axes)
    if is_full:
        sizes = [g.size(x, axis) + 2 * p for axis, p in zip(axes, pad)]
        counts = [-(-(size - k) // s) + 1 for size, k, s in zip(sizes, kernel, stride)]
        ends = [(count - 1) * s + k for count, k, s in zip(counts, kernel, stride)]
        more = [max(0, end - size) for end, size in zip(ends, sizes)]
        window["pads"] = [*pad, *(p + m for p, m in zip(pad, more))]
        if any(end >= k for end, k in zip(window["pads"][len(axes) :], kernel)):
            refuse("windows that lie outside of its input")
    if kind == "max":
        return g.MaxPool(x, **window)
    if kind == "avg" and a["count_include_pad"] is False:
        return g.AveragePool(x, **window)
    means = g.AveragePool(terms, count_include_pad=1, **window)
    if kind != "avg":
        return means * float(np.prod(kernel))
    # The padding counts, what lies beyond does not.
    for axis, k, s, m in zip(axes, kernel, stride, more):
        if m:
            inside = np.minimum(k, sizes[axis - 2] - s * np.arange(counts[axis - 2]))
            means = means * np.reshape(k / inside, [-1] + [1] * (x.rank - 1 - axis)).astype(x.dtype)
    return means


@translates("_contrib_AdaptiveAvgPooling2D")
def _adaptive_average(g, a, x):
    sizes = a["output_size"] or (1, 1)
    sizes = sizes * 2 if len(sizes) == 1 else sizes
    if sizes == (1, 1):
        return g.GlobalAveragePool(x)
    rows, columns = (_averages(g.size(x, 2 + i), n).astype(x.dtype) for i, n in enumerate(sizes))
    return g.MatMul(g.MatMul(g.tensor(rows), x), columns.T.copy())


def _averages(size, wanted):
    """Return the (wanted, size) matrix that takes the means of parts, which may overlap."""
    places, parts = np.arange(size), np.arange(wanted)[:, None]
    is_inside = (places >= parts * size // wanted) & (places < -(-(parts + 1) * size // wanted))
    return is_inside / is_inside.sum(axis=1, keepdims=True)


@translates("UpSampling")
def _upsampling(g, a, x, *others):
    scale = a["scale"]
    if a["sample_type"] == "bilinear":
        window = {"kernel": (2 * scale - scale % 2,) * 2, "stride": (scale,) * 2}
        window.update(pad=(scale // 2,) * 2, num_group=g.size(x, 1), layout=None)
        return g.ConvTranspose(x, others[0], **_window(window, x))
    options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
    options["nearest_mode"] = "floor"
    maps = []
    for each in (x, *others):
        factor = scale * g.size(x, 2) // g.size(each, 2) if others else scale
        scales = np.float32([1, 1, factor, factor])
        maps.append(g.Resize(each, np.float32([]), scales, **options))
    return g.Sum(*maps) if a["multi_input_mode"] == "sum" else g.Concat(*maps, axis=1)


@translates("_contrib_BilinearResize2D")
def _bilinear_resize(g, a, x, *like):
    height, width = g.outputs[0][0][2:]
    if height is None or width is None:
        refuse("an output of any size")
    mode = "align_corners" if a["align_corners"] else "half_pixel"
    options = {"mode": "linear", "coordinate_transformation_mode": mode}
    sizes = [g.dim(x, 0), g.dim(x, 1), height, width]
    return g.Resize(x, np.float32([]), np.float32([]), sizes, **options)


# Reductions


def _reduce(g, op, x, axes, keepdims):
    options = {"keepdims": int(bool(keepdims))}
    if not axes:
        return x
    if op == "ReduceSum":
        result = g.ReduceSum(x, sorted(axes), **options)
    else:
        result = g.node(op, x, axes=sorted(axes), **options)
    # Outside of NumPy's mode MXNet has no tensors without axes.
    return g.Reshape(result, [1]) if g.outputs[0][0] == (1,) else result


def _reduced_axes(a, x, name="axis"):
    axes = _axes(a.get(name), x.rank)
    if a.get("exclude"):
        return [axis for axis in range(x.rank) if axis not in axes]
    return axes or list(range(x.rank))


def _reduction(op, g, a, x, instead_of_nan=None):
    values = g.cast(x, g.outputs[0][1])
    if instead_of_nan is not None:
        values = g.Where(g.IsNaN(values), instead_of_nan, values)
    return _reduce(g, op, values, _reduced_axes(a, x), a["keepdims"])


@translates("moments")
def _moments(g, a, x):
    axes, keepdims = _reduced_axes(a, x, "axes"), a["keepdims"]
    centered = x - g.ReduceMean(x, axes=axes)
    variance = _reduce(g, "ReduceMean", centered * centered, axes, keepdims)
    return _reduce(g, "ReduceMean", x, axes, keepdims), variance


def _best(op, g, a, x):
    if a["axis"] is None:
        return g.reshape(g.node(op, g.reshape(x, -1), axis=0), *[1] * len(g.outputs[0][0]))
    place = g.node(op, x, axis=a["axis"], keepdims=a["keepdims"])
    return g.reshape(place, 1) if g.outputs[0][0] == (1,) else place


@translates("_np_cumsum")
def _cumsum(g, a, x):
    # ONNX has no sums of float16.
    dtype = np.promote_types(g.outputs[0][1], "float32" if x.dtype == "float16" else "int32")
    terms = g.cast(g.reshape(x, -1) if a["axis"] is None else x, dtype)
    return g.CumSum(terms, np.array(a["axis"] or 0))


# Sorting and picking


def _sorted(g, a, x, k, is_ascending):
    """Return the first `k` values, all if that is 0, and their places along an axis."""
    axis, size = a["axis"], [g.dim(x, a["axis"] or 0)]
    if axis is None:
        x, axis, size = g.reshape(x, -1), 0, g.reshape(g.Size(x), 1)
    options = {"axis": axis, "largest": int(not is_ascending), "dtypes": (x.dtype, np.int64)}
    return g.TopK(x, [k] if k > 0 else size, outputs=2, **options)


@translates("topk")
def _topk(g, a, x):
    kind, axis = a["ret_typ"], a["axis"]
    values, places = _sorted(g, a, x, a["k"], a["is_ascend"])
    if kind == "mask":
        flat, axis = (g.reshape(x, -1), 0) if axis is None else (x, axis)
        zeros, ones = _filled(g, 0, x, g.Shape(flat)), _filled(g, 1, x, g.Shape(places))
        return g.Reshape(g.ScatterElements(zeros, places, ones, axis=axis), g.Shape(x))
    return {"value": (values,), "indices": (places,), "both": (values, places)}[kind]


def _inside(g, indices, size, mode):
    """Return indices as int64, those out of range as MXNet's mode says."""
    indices, size = g.cast(indices, np.int64), g.tensor([size])
    if mode == "clip":
        return g.Min(g.Max(indices, [0]), size - 1)
    return g.Mod(indices, size) if mode == "wrap" else indices


@translates("take _npi_take")
def _take(g, a, x, indices):
    axis = a["axis"]
    return g.Gather(x, _inside(g, indices, g.dim(x, axis), a["mode"]), axis=axis)


@translates("pick batch_take")
def _pick(g, a, x, indices):
    axis = -1 if a.get("axis") is None else a["axis"]
    places = _inside(g, indices, g.dim(x, axis), a.get("mode", "clip"))
    places = g.Unsqueeze(places, [axis]) if indices.rank < x.rank else places
    picked = g.GatherElements(x, places, axis=axis)
    return picked if a.get("keepdims") else g.Squeeze(picked, [axis])


@translates("one_hot")
def _one_hot(g, a, indices):
    values = np.float32([a["off_value"], a["on_value"]])
    places = g.cast(indices, np.int64)
    # ONNX counts negative indices from the end, MXNet has no place for them.
    places = g.Where(places < 0, a["depth"], places)
    return g.OneHot(places, [a["depth"]], values, dtype=np.float32)


def _places(g, indices):
    """Return indices as int64, their first axis last."""
    return g.transpose(g.cast(indices, np.int64), *range(1, indices.rank), 0)


@translates("where _npi_where")
def _where(g, a, condition, x, y):
    by_row = condition.rank == 1 < x.rank
    condition = g.cast(condition, bool)
    return g.Where(g.reshape(condition, -1, *[1] * (x.rank - 1)) if by_row else condition, x, y)


@translates("diag")
def _diag(g, a, x):
    k = a["k"]
    if x.rank == 1:
        eye = np.eye(g.size(x, 0) + abs(k), k=k, dtype=x.dtype)
        return g.Unsqueeze(g.Pad(x, [max(-k, 0), max(k, 0)]), [1]) * eye
    axes = [a["axis1"] % x.rank, a["axis2"] % x.rank]
    others = [axis for axis in range(x.rank) if axis not in axes]
    sizes = [g.size(x, axis) for axis in axes]
    places = np.ravel_multi_index(np.nonzero(np.eye(*sizes, k)), sizes)
    x = g.reshape(g.transpose(x, *others, *axes), *[0] * len(others), -1)
    return g.Gather(x, places, axis=len(others))


# Shapes


@translates("Reshape")
def _reshape(g, a, x):
    step = -1 if a["reverse"] else 1
    codes, sizes = list(a["shape"])[::step], g.dims(x)[::step]
    if not codes:  # of old networks
        codes = list(a["target_shape"])
        codes[0] = 0 if a["keep_highest"] else codes[0]
    result = []
    while codes:
        code = codes.pop(0)
        if code == -2:  # all that are left
            result += sizes
        elif code == -3:  # two as one
            result.append(sizes.pop(0) * sizes.pop(0))
        elif code == -4:  # one as two
            sizes.pop(0)
            result += codes.pop(0), codes.pop(0)
        else:
            size = sizes.pop(0) if sizes else None
            result.append(size if code == 0 else code)
    return g.reshape(x, *result[::step])


@translates("reshape_like")
def _reshape_like(g, a, x, like):
    sizes, begin, end = g.dims(x), a["lhs_begin"] or 0, a["lhs_end"]
    middle = g.dims(like)[slice(a["rhs_begin"], a["rhs_end"])]
    return g.reshape(x, *sizes[:begin], *middle, *([] if end is None else sizes[end:]))


@translates("squeeze _np_squeeze")
def _squeeze(g, a, x):
    axes = _axes(a["axis"], x.rank) or [i for i, size in enumerate(x.shape) if size == 1]
    if len(axes) == x.rank and g.outputs[0][0]:
        axes = axes[1:]
    return g.Squeeze(x, axes) if axes else x


@translates("SliceChannel _split_v2")
def _split(g, a, x):
    axis, count = a["axis"], a.get("num_outputs", a.get("sections", 0))
    size = g.size(x, axis)
    starts = range(0, size, size // count) if count else a["indices"]
    sizes = [int(each) for each in np.diff([*starts, size])]
    parts = g.Split(x, sizes, axis=axis, outputs=len(sizes))
    parts = parts if len(sizes) > 1 else [parts]
    return [g.Squeeze(part, [axis]) for part in parts] if a["squeeze_axis"] else parts


@translates("slice")
def _slice(g, a, x):
    begin, end = a["begin"], a["end"]
    step = [each or 1 for each in a["step"]] or [1] * len(begin)
    begin = [(0 if s > 0 else LAST) if b is None else b for b, s in zip(begin, step)]
    end = [(LAST if s > 0 else -LAST) if e is None else e for e, s in zip(end, step)]
    return g.Slice(x, begin, end, list(range(len(begin))), step)


@translates("slice_like")
def _slice_like(g, a, x, like):
    axes = _axes(a["axes"], x.rank) or list(range(like.rank))
    return g.Slice(x, [0] * len(axes), [g.dim(like, axis) for axis in axes], axes)


@translates("Crop")
def _crop(g, a, x, *like):
    sizes = [g.dim(like[0], axis) for axis in (2, 3)] if like else a["h_w"]
    starts = list(a["offset"]) or [0, 0]
    if a["center_crop"]:
        starts = [(g.dim(x, 2 + i) - size) // 2 for i, size in enumerate(sizes)]
    return g.Slice(x, starts, [start + size for start, size in zip(starts, sizes)], [2, 3])


@translates("Pad")
def _pad(g, a, x):
    widths, mode = a["pad_width"], a["mode"]
    value = a["constant_value"] if mode == "constant" else None
    return g.Pad(x, [*widths[::2], *widths[1::2]], value, mode=mode)


@translates("reverse _npi_flip")
def _reverse(g, a, x):
    axes = _axes(a["axis"], x.rank)
    begin, end, step = ([value] * len(axes) for value in (LAST, -LAST, -1))
    return g.Slice(x, begin, end, axes, step)


@translates("repeat")
def _repeat(g, a, x):
    count, axis = a["repeats"], a["axis"]
    sizes = [g.reshape(g.Size(x), 1)] if axis is None else g.dims(x)
    axis = (axis or 0) % x.rank
    x = g.reshape(x, *sizes[: axis + 1], 1, *sizes[axis + 1 :])
    tiled = g.Tile(x, [1] * (axis + 1) + [count] + [1] * (len(sizes) - axis - 1))
    return g.reshape(tiled, *sizes[:axis], sizes[axis] * count, *sizes[axis + 1 :])


@translates("tile")
def _tile(g, a, x):
    repeats = a["reps"]
    missing = len(repeats) - x.rank
    x = g.reshape(x, *[1] * missing, *g.dims(x)) if missing > 0 else x
    return g.Tile(x, [1] * -missing + list(repeats))


def _expand(g, x, axes, sizes):
    """Repeat axes of size 1."""
    sizes = dict(zip(_axes(axes, x.rank), sizes))
    return g.Expand(x, [sizes.get(axis, 1) for axis in range(x.rank)])


@translates("broadcast_like")
def _broadcast_like(g, a, x, like):
    if a["lhs_axes"] is None:
        return g.Expand(x, g.Shape(like))
    return _expand(g, x, a["lhs_axes"], [g.dim(like, axis) for axis in a["rhs_axes"]])


@translates("_contrib_arange_like")
def _arange_like(g, a, x):
    axis = a["axis"]
    places = g.count(g.reshape(g.Size(x), 1) if axis is None else g.dim(x, axis))
    steps = g.cast(places / a["repeat"], g.outputs[0][1])
    numbers = steps * a["step"] + a["start"]
    return g.Reshape(numbers, g.Shape(x)) if axis is None else numbers


def _full(g, value):
    """Fill a shape, of which MXNet may have inferred a part, as of the state of an unrolled RNN."""
    shape, dtype = g.outputs[0]
    return np.full([1 if size is None else size for size in shape], value, dtype)


@translates("smooth_l1")
def _smooth_l1(g, a, x):
    square = (a["scalar"] or 1.0) ** 2
    return g.Where(abs(x) < 1 / square, x * x * (0.5 * square), abs(x) - 0.5 / square)


@translates("_image_normalize")
def _image_normalize(g, a, x):
    mean, std = (np.array(a[name][: g.size(x, -3)]) for name in ("mean", "std"))
    mean, std = (each.reshape(-1, 1, 1).astype(x.dtype) for each in (mean, std))
    return (x - mean) / std


# Products


@translates("dot")
def _dot(g, a, x, y):
    """Sum over the last axis of `x` and the first of `y`, or the other way where transposed."""
    if a.get("transpose_a"):
        x = g.transpose(x, *range(1, x.rank), 0)
    if a.get("transpose_b"):
        y = g.transpose(y, y.rank - 1, *range(y.rank - 1))
    shared, sizes = g.dim(y, 0), [*g.dims(x)[:-1], *g.dims(y)[1:]]
    x = x if x.rank == 2 else g.reshape(x, -1, shared)
    y = y if y.rank == 2 else g.reshape(y, shared, -1)
    return g.reshape(g.MatMul(x, y), *sizes or [1])


@translates("batch_dot _npi_matmul")
def _batch_dot(g, a, x, y):
    x = _swap(g, x, -2, -1) if a.get("transpose_a") else x
    return g.MatMul(x, _swap(g, y, -2, -1) if a.get("transpose_b") else y)


@translates("_linalg_gemm2 _linalg_gemm")
def _gemm(g, a, x, y, added=None):
    if a.get("axis", -2) not in (-2, x.rank - 2):
        refuse("its axis")
    product = _batch_dot(g, a, x, y) * a["alpha"]
    return product if added is None else product + added * a["beta"]


def _part(g, x, heads, parts, part):
    """Take one of the parts that lie interleaved in (L, B, E), as (B * heads, L, E / ...)."""
    length, batch, _ = g.dims(x)
    x = g.reshape(x, length, batch, heads, parts, -1)
    x = g.Squeeze(g.Slice(x, [part], [part + 1], [3]), [3])
    return g.reshape(g.transpose(x, 1, 2, 0, 3), batch * heads, length, -1)


def _score(g, a, x, other, query, key):
    """Return products of queries and keys; which parts of the inputs they are is (parts, part)."""
    width = g.size(x, 2) // a["heads"] // query[0]
    queries, keys = _part(g, x, a["heads"], *query), _part(g, other, a["heads"], *key)
    return g.MatMul(queries / math.sqrt(width), g.transpose(keys, 0, 2, 1))


def _attend(g, a, x, attention, parts):
    """Return (B * heads, L, S) x (B * heads, S, E) as (L, B, heads * E)."""
    heads, length = a["heads"], g.dim(attention, 1)
    batch = g.dim(attention, 0) // heads
    values = g.MatMul(attention, _part(g, x, heads, parts, parts - 1))
    values = g.transpose(g.reshape(values, batch, heads, length, -1), 2, 0, 1, 3)
    return g.reshape(values, length, batch, -1)


# Sequences


def _lengths(g, a, x, lengths):
    """Return each sequence's length as int64; without lengths, all are whole."""
    if a["use_sequence_length"]:
        return g.cast(lengths[0], np.int64)
    return g.Expand(g.tensor([g.dim(x, 0)]), g.tensor([g.dim(x, 1)]))


@translates("SequenceMask")
def _sequence_mask(g, a, x, *lengths):
    if not a["use_sequence_length"]:
        return x
    axis = a["axis"]
    places = g.Unsqueeze(g.count(g.dim(x, axis)), [1 - axis])
    is_inside = places < g.Unsqueeze(_lengths(g, a, x, lengths), [axis])
    is_inside = g.Unsqueeze(is_inside, list(range(2, x.rank))) if x.rank > 2 else is_inside
    return g.Where(is_inside, x, a["value"])


@translates("SequenceLast")
def _sequence_last(g, a, x, *lengths):
    x = _swap(g, x, 0, 1) if a["axis"] == 1 else x
    places = g.Unsqueeze(_lengths(g, a, x, lengths) - 1, [1])
    return g.GatherND(x, g.Concat(places, g.Unsqueeze(g.count(g.dim(x, 1)), [1]), axis=1))


RECURRENT = {  # in ONNX, and MXNet's gates in ONNX's order
    "lstm": ("LSTM", [0, 3, 1, 2]),
    "gru": ("GRU", [1, 0, 2]),
    "rnn_tanh": ("RNN", [0]),
    "rnn_relu": ("RNN", [0]),
}


@translates("RNN")
def _rnn(g, a, x, weights, *states):
    if any(a.get(n) for n in ("use_sequence_length", "projection_size", "lstm_state_clip_max")):
        refuse("use_sequence_length, projection_size or clipped states")
    op, order = RECURRENT[a["mode"]]
    directions, layers = 1 + bool(a["bidirectional"]), a["num_layers"]
    size, gates, both = a["state_size"], len(order), range(directions)
    options = {
        "hidden_size": size,
        "direction": ("forward", "bidirectional")[directions - 1],
        "activations": ["Relu"] * directions if a["mode"] == "rnn_relu" else None,
        "linear_before_reset": 1 if op == "GRU" else None,
    }
    # First all matrices, then all biases, layer by layer and direction by direction.
    inputs = [g.size(x, 2)] + [directions * size] * (layers - 1)
    widths = [width for each in inputs for _ in both for width in (each, size)]
    sizes = [gates * size * width for width in widths] + [gates * size] * len(widths)
    parts = iter(g.Split(weights, sizes, axis=0, outputs=len(sizes)))

    def take(*width):
        """Take the next weights of a direction, in the order of ONNX's gates."""
        part = g.Gather(g.reshape(next(parts), gates, size, *width), np.array(order), axis=0)
        return g.reshape(part, 1, gates * size, *width)

    matrices = [[(take(width), take(size)) for _ in both] for width in inputs]
    biases = [[g.Concat(take(), take(), axis=1) for _ in both] for _ in inputs]
    states, ends = [g.Expand(each, [1, g.dim(x, 1), 1]) for each in states], []
    for layer in range(layers):
        weights = [g.Concat(*each, axis=0) for each in (*zip(*matrices[layer]), biases[layer])]
        first = layer * directions
        begins = [g.Slice(each, [first], [first + directions], [0]) for each in states]
        out, *last = g.node(op, x, *weights, None, *begins, outputs=1 + len(states), **options)
        # (length, directions, batch, size) to (length, batch, directions * size)
        x = g.reshape(g.transpose(out, 0, 2, 1, 3), 0, 0, -1)
        ends.append(last)
    return [x, *(g.Concat(*each, axis=0) for each in zip(*ends))]


# Random numbers


def _random(op, g, like, **options):
    shape = g.outputs[0][0]
    if like:
        return g.node(f"{op}Like", *like, **options)
    return g.node(op, shape=shape, **options) if None not in shape else refuse("any shape")


@translates("_sample_multinomial")
def _multinomial(g, a, x):
    shape = a["shape"]
    if x.rank != 2 or a["get_prob"] or len(shape) > 1:
        refuse("anything but one row of draws for each row")
    draws = g.Multinomial(g.Log(x), sample_size=(shape or (1,))[0], dtype=np.int32)
    return draws if shape else g.reshape(draws, -1)


# What is one expression.
EXPRESSIONS = {
    # The graph casts all outputs.
    "Cast amp_cast _npi_cast _npx_cast": lambda g, a, x: x,
    "_copy identity BlockGrad make_loss " + " ".join(HEADS): lambda g, a, x: x,
    "LogisticRegressionOutput": lambda g, a, x: g.Sigmoid(x),
    "logical_not _npi_logical_not": lambda g, a, x: ~g.cast(x, bool),
    "zeros_like": lambda g, a, x: _filled(g, 0, x, g.Shape(x)),
    "ones_like": lambda g, a, x: _filled(g, 1, x, g.Shape(x)),
    "shape_array": lambda g, a, x: g.Shape(x),
    "size_array": lambda g, a, x: g.reshape(g.Size(x), 1),
    "_contrib_div_sqrt_dim": lambda g, a, x: x / g.Sqrt(g.cast(g.tensor([g.dim(x, -1)]), x.dtype)),
    "Flatten": lambda g, a, x: g.Flatten(x),
    "Convolution Convolution_v1": lambda g, a, x, *w: g.Conv(x, *w, **_window(a, x)),
    "_contrib_BatchNormWithReLU": lambda g, a, *inputs: g.Relu(_batch_norm(g, a, *inputs)),
    "InstanceNorm": _instance_norm,
    "Activation": lambda g, a, x: TRANSLATIONS[a["act_type"]](g, a, x),
    "LRN": lambda g, a, x: g.LRN(
        x, alpha=a["alpha"], beta=a["beta"], bias=a["knorm"], size=a["nsize"]
    ),
    "hard_sigmoid": lambda g, a, x: g.HardSigmoid(x, alpha=a["alpha"], beta=a["beta"]),
    "softmax": partial(_softmax, "Softmax"),
    "softmin": partial(_softmax, "Softmax", sign=-1),
    "log_softmax": partial(_softmax, "LogSoftmax"),
    # Of maps, unless told otherwise, oneDNN takes the last axis.
    "SoftmaxOutput": lambda g, a, x: g.Softmax(x, axis=1 if a["multi_output"] else -1),
    "SoftmaxActivation": lambda g, a, x: g.Softmax(x, axis=1 if a["mode"] == "channel" else -1),
    "sum _np_sum _npi_sum": partial(_reduction, "ReduceSum"),
    "mean _np_mean _npi_mean": partial(_reduction, "ReduceMean"),
    "prod _np_prod _npi_prod": partial(_reduction, "ReduceProd"),
    "max _np_max _npi_max": partial(_reduction, "ReduceMax"),
    "min _np_min _npi_min": partial(_reduction, "ReduceMin"),
    "nansum": partial(_reduction, "ReduceSum", instead_of_nan=0),
    "nanprod": partial(_reduction, "ReduceProd", instead_of_nan=1),
    "norm": lambda g, a, x: _reduction(f"ReduceL{a['ord']}", g, a, x),
    "argmax _npi_argmax": partial(_best, "ArgMax"),
    "argmin _npi_argmin": partial(_best, "ArgMin"),
    "argmax_channel": lambda g, a, x: _best("ArgMax", g, {"axis": 1, "keepdims": False}, x),
    "sort": lambda g, a, x: _sorted(g, a, x, 0, a["is_ascend"])[:1],
    "argsort": lambda g, a, x: _sorted(g, a, x, 0, a["is_ascend"])[1:],
    "Embedding": lambda g, a, indices, weight: _take(
        g, {"axis": 0, "mode": "clip"}, weight, indices
    ),
    "gather_nd": lambda g, a, x, indices: g.GatherND(x, _places(g, indices)),
    "scatter_nd": lambda g, a, x, indices: g.ScatterND(
        np.zeros(a["shape"], x.dtype), _places(g, indices), x
    ),
    "_arange": lambda g, a: np.arange(a["start"], a["stop"], a["step"]).repeat(a["repeat"]),
    "_eye": lambda g, a: np.eye(a["N"], a["M"] or None, a["k"]),
    "_linspace": lambda g, a: np.linspace(a["start"], a["stop"], a["num"], a["endpoint"]),
    "_zeros": lambda g, a: _full(g, 0),
    "_ones": lambda g, a: _full(g, 1),
    "_full": lambda g, a: _full(g, a["value"]),
    "expand_dims _npi_expand_dims": lambda g, a, x: g.Unsqueeze(x, [a["axis"]]),
    "transpose _np_transpose": lambda g, a, x: g.Transpose(
        x, perm=_axes(a["axes"], x.rank) or None
    ),
    "_np_reshape": lambda g, a, x: g.reshape(x, *a["newshape"]),
    "SwapAxis": lambda g, a, x: _swap(g, x, a["dim1"], a["dim2"]),
    "Concat _rnn_param_concat": lambda g, a, *inputs: g.Concat(*inputs, axis=a["dim"]),
    "_npi_concatenate": lambda g, a, *inputs: g.Concat(*inputs, axis=a["axis"]),
    "stack _npi_stack": lambda g, a, *inputs: g.Concat(
        *(g.Unsqueeze(x, [a["axis"]]) for x in inputs), axis=a["axis"]
    ),
    "slice_axis": lambda g, a, x: g.Slice(
        x, [a["begin"]], [LAST if a["end"] is None else a["end"]], [a["axis"]]
    ),
    # Expanding by 1 keeps a size, which is what MXNet's 0 asks for.
    "broadcast_to _npi_broadcast_to": lambda g, a, x: g.Expand(
        x, [size or 1 for size in a["shape"]]
    ),
    "broadcast_axis": lambda g, a, x: _expand(g, x, a["axis"], a["size"]),
    "depth_to_space": lambda g, a, x: g.DepthToSpace(x, blocksize=a["block_size"]),
    "space_to_depth": lambda g, a, x: g.SpaceToDepth(x, blocksize=a["block_size"]),
    "add_n": lambda g, a, *inputs: g.Sum(*inputs),
    "Dropout": lambda g, a, x: x if a["mode"] != "always" else refuse("its mode"),
    "clip": lambda g, a, x: g.Min(g.Max(x, a["a_min"]), a["a_max"]),
    "_image_to_tensor": lambda g, a, x: (
        g.transpose(g.cast(x, np.float32), *([2, 0, 1] if x.rank == 3 else [0, 3, 1, 2])) / 255
    ),
    "_np_dot": lambda g, a, x, y: _dot(g, a, x, y) if y.rank < 3 else refuse("three axes"),
    "_linalg_syrk": lambda g, a, x: _gemm(
        g, {**a, "transpose_a": a["transpose"], "transpose_b": not a["transpose"]}, x, x
    ),
    "_contrib_interleaved_matmul_selfatt_qk": lambda g, a, x: _score(g, a, x, x, (3, 0), (3, 1)),
    "_contrib_interleaved_matmul_encdec_qk": lambda g, a, x, y: _score(g, a, x, y, (1, 0), (2, 0)),
    "_contrib_interleaved_matmul_selfatt_valatt": lambda *inputs: _attend(*inputs, 3),
    "_contrib_interleaved_matmul_encdec_valatt": lambda *inputs: _attend(*inputs, 2),
    "SequenceReverse": lambda g, a, x, *lengths: g.ReverseSequence(
        x, _lengths(g, a, x, lengths), batch_axis=1, time_axis=0
    ),
    "_random_uniform _random_uniform_like": lambda g, a, *like: _random(
        "RandomUniform", g, like, low=a["low"], high=a["high"]
    ),
    "_random_normal _random_normal_like": lambda g, a, *like: _random(
        "RandomNormal", g, like, mean=a["loc"], scale=a["scale"]
    ),
}
register(EXPRESSIONS)
