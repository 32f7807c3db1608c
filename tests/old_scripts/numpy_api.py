"""Train with MXNet's own NumPy, as the book Dive into Deep Learning does."""

from mxnet import autograd, gluon, init, np, npx, random
from mxnet.gluon import nn

npx.set_np()
random.seed(2)
true_w, true_b = np.array([2, -3.4]), 4.2
features = np.random.normal(0, 1, (1000, 2))
labels = np.dot(features, true_w) + true_b + np.random.normal(0, 0.01, 1000)

net = nn.Sequential()
net.add(nn.Dense(1))
net.initialize(init.Normal(sigma=0.01))
loss = gluon.loss.L2Loss()
trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.03})
batches = gluon.data.DataLoader(gluon.data.ArrayDataset(features, labels), 10, shuffle=False)
for epoch in range(3):
    for X, y in batches:
        with autograd.record():
            error = loss(net(X), y)
        error.backward()
        trainer.step(10)
    print(
        "epoch %d, loss under 0.01: %s"
        % (epoch + 1, float(loss(net(features), labels).mean()) < 0.01)
    )
print([round(float(each), 1) for each in net[0].weight.data()[0]], "%.1f" % net[0].bias.data())
counts = np.array([255, 256, -1], dtype="uint8")
print(counts, np.pad(counts.reshape(1, 3), ((0, 0), (1, 1)), mode="constant"), counts.sum())
