"""Train with the Module API on arrays that were read from bytes, as MXNet's first examples did."""

import struct

import mxnet as mx
import numpy as np

np.random.seed(7)
mx.random.seed(7)
labels = np.arange(600) % 3
pixels = np.random.randint(0, 60, (600, 1, 8, 8)) + 60 * labels.reshape(-1, 1, 1, 1)
raw = struct.pack(">IIII", 2051, 600, 8, 8) + pixels.astype(np.uint8).tobytes()
_, count, rows, columns = struct.unpack(">IIII", raw[:16])
images = np.fromstring(raw[16:], dtype=np.uint8).reshape(count, 1, rows, columns) / np.float(255)

train = mx.io.NDArrayIter(images[:500], labels[:500], 50, shuffle=False)
val = mx.io.NDArrayIter(images[500:], labels[500:], 50)
net = mx.sym.Flatten(mx.sym.var("data"))
net = mx.sym.Activation(mx.sym.FullyConnected(net, num_hidden=np.int64(16)), act_type="relu")
net = mx.sym.SoftmaxOutput(mx.sym.FullyConnected(net, num_hidden=3), name="softmax")
module = mx.mod.Module(net, context=mx.cpu())
metric = mx.metric.CompositeEvalMetric([mx.metric.Accuracy(), mx.metric.CrossEntropy()])
options = {"optimizer_params": {"learning_rate": 0.1}, "initializer": mx.init.Xavier()}
module.fit(train, eval_metric=metric, num_epoch=8, **options)
for name, value in module.score(val, metric):
    print("%s %.3f" % (name, value))
print("mean of all outputs %.4f" % np.mean(module.predict(val).asnumpy()))
