"""Export a small network to ONNX."""

import os
import sys

import mxnet as mx
import numpy as np
import onnx

mx.random.seed(5)
net = mx.gluon.nn.HybridSequential(prefix="net_")
with net.name_scope():
    net.add(mx.gluon.nn.Conv2D(4, 3, activation="relu"), mx.gluon.nn.BatchNorm())
    net.add(mx.gluon.nn.GlobalAvgPool2D(), mx.gluon.nn.Flatten(), mx.gluon.nn.Dense(3))
net.initialize()
net.hybridize()
net(mx.nd.ones((1, 3, 8, 8)))
prefix = os.path.join(sys.argv[1], "net")
net.export(prefix)

path = mx.onnx.export_model(
    prefix + "-symbol.json", prefix + "-0000.params", [(1, 3, 8, 8)], np.float32, prefix + ".onnx"
)
onnx.checker.check_model(path)
model = onnx.load(path)
print([(each.domain, each.version) for each in model.opset_import])
print([node.op_type for node in model.graph.node])
print([dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim])
