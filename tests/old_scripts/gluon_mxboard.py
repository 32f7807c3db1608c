"""Train with Gluon in workers that load the data, and log with MXBoard."""

import sys

import mxnet as mx
import numpy as np
from mxboard import SummaryWriter
from mxnet import autograd, gluon

np.random.seed(1)
mx.random.seed(1)
inputs = np.random.uniform(-1, 1, (400, 5)).astype("float32")
targets = inputs.dot(np.arange(5, dtype="float32")).reshape(-1, 1)
data = gluon.data.DataLoader(gluon.data.ArrayDataset(inputs, targets), 40, num_workers=2)

net = gluon.nn.Dense(1)
net.initialize(mx.init.Orthogonal())
net.hybridize()
trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
loss = gluon.loss.L2Loss()

count = mx.nd.array([2**24]).asscalar()
with SummaryWriter(logdir=sys.argv[1], verbose=False) as sw:
    for epoch in range(3):
        total = 0.0
        for batch in data:
            x, y = (array.as_in_context(mx.cpu()) for array in batch)
            with autograd.record():
                error = loss(net(x), y)
            error.backward()
            trainer.step(len(x))
            total += error.sum().asscalar()
            count += 1
        sw.add_scalar(tag="loss", value=total / len(inputs), global_step=epoch)
        sw.add_histogram(tag="weight", values=net.weight.data(), global_step=epoch, bins=10)
        print("epoch %d loss %.4f" % (epoch, total / len(inputs)))
    sw.add_graph(net)
print("steps since 2^24: %d" % (count - 2**24))
print("weights", " ".join("%.2f" % weight for weight in np.array(net.weight.data())[0]))
