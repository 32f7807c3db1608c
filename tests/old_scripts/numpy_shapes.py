"""Build a network whose sizes are computed with NumPy, and save it."""

import json
import os
import sys

import mxnet as mx
import numpy as np

mx.random.seed(3)
np.random.seed(3)
size = np.array([2, 3, 12, 12])
kernel = (size[2:] // 4).tolist()[0], np.int64(3)

data = mx.sym.var("data", shape=tuple(size))
maps = mx.sym.Convolution(data, kernel=kernel, num_filter=np.int32(4), pad=(np.int64(1),) * 2)
maps = mx.sym.Pooling(maps, kernel=tuple(size[2:] // 6), stride=tuple(size[2:] // 6))
row = mx.sym.reshape(maps, shape=(size[0], -1), name="row")
net = mx.sym.FullyConnected(row, num_hidden=size[:2].prod(), name="fc")
net = mx.sym.LeakyReLU(net, slope=np.float32(0.1))
path = os.path.join(sys.argv[1], "net.json")
net.save(path)

net = mx.sym.load(path)
print(json.loads(net.tojson())["nodes"][0]["attrs"]["__shape__"])
print(net.infer_shape()[1])
boxes = mx.contrib.nd.MultiBoxPrior(
    mx.nd.zeros(tuple(size)), sizes=[np.float32(0.1), np.float32(0.5)], ratios=(np.float64(1.5),)
)
print(boxes.shape, "%.4f" % boxes.asnumpy().std())
print(mx.nd.zeros((size[0], size[1])).shape, mx.nd.ones((1, 3)).broadcast_to(tuple(size[:2])).shape)
weight = mx.nd.zeros((np.int64(4), np.int64(4)))
mx.init.Orthogonal(scale=1)("fc_weight", weight)
print(np.round(mx.nd.dot(weight, weight.T).asnumpy(), 4).tolist() == np.eye(4).tolist())
