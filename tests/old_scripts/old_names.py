"""Train a logistic regression by hand, with the names and habits of Python 3.5 and NumPy 1.13."""

import collections
import inspect
import time

import mxnet as mx
import numpy as np
from mxnet import autograd, nd

Options = collections.namedtuple("Options", "rate steps")


def read(options):
    """Take options from a dictionary or a sequence."""
    if isinstance(options, collections.Mapping):
        return Options(**options)
    assert isinstance(options, collections.Sequence)
    return Options(*options)


def step(weight, bias, x, y, rate=0.5):
    """Take one step of gradient descent, and return the mean loss."""
    with autograd.record():
        loss = nd.relu(-y * (nd.dot(x, weight) + bias) + 1).mean()
    loss.backward()
    for parameter in (weight, bias):
        parameter -= rate * parameter.grad
    return np.asscalar(loss.asnumpy())


started = time.clock()
options = read({"rate": 0.1, "steps": 40})
print(inspect.getargspec(step).args)
x = np.cast["float32"](np.linspace(-1, 1, 64)[np.arange(128).reshape(64, 2) * 37 % 64])
y = np.where(x[:, 0] > 0.5 * x[:, 1], np.float(1), np.float(-1)).astype(np.float32)
weight, bias = nd.zeros(2), nd.zeros(1)
weight.attach_grad(), bias.attach_grad()
total = 0.0
for _ in range(options.steps):
    total += step(weight, bias, nd.array(x), nd.array(y, dtype=weight), options.rate)
print("mean loss %.4f" % (total / options.steps))
metric = mx.metric.Accuracy()
scores = nd.dot(nd.array(x), weight) + bias
metric.update(nd.array(y > 0), nd.stack(-scores, scores, axis=1))
print(metric.get(), np.bool8(time.clock() >= started), np.string_("end"))
