"""Train an LSTM on sentences of different lengths with the Module API's buckets."""

import random

import mxnet as mx
import numpy as np

random.seed(4)
np.random.seed(4)
mx.random.seed(4)
sentences = [[(start + place) % 5 + 1 for place in range(3 + start % 3)] for start in range(60)]
data = mx.rnn.BucketSentenceIter(sentences, 4, buckets=[3, 5], invalid_label=0, dtype="int32")
stack = mx.rnn.SequentialRNNCell()
stack.add(mx.rnn.LSTMCell(num_hidden=np.int64(16), prefix="lstm_"))


def sym_gen(length):
    """Make the network for sentences of a length."""
    words, label = mx.sym.var("data"), mx.sym.var("softmax_label")
    embedded = mx.sym.Embedding(words, input_dim=6, output_dim=8, name="embed")
    stack.reset()
    outputs, _ = stack.unroll(length, inputs=embedded, merge_outputs=True)
    scores = mx.sym.FullyConnected(
        mx.sym.Reshape(outputs, shape=(-1, 16)), num_hidden=6, name="pred"
    )
    label = mx.sym.Reshape(label, shape=(-1,))
    return mx.sym.SoftmaxOutput(scores, label, name="softmax"), ("data",), ("softmax_label",)


model = mx.mod.BucketingModule(sym_gen, default_bucket_key=data.default_bucket_key)
perplexity = mx.metric.Perplexity(ignore_label=0)
model.fit(
    data,
    eval_metric=perplexity,
    optimizer="adam",
    optimizer_params={"learning_rate": 0.05},
    initializer=mx.init.Xavier(factor_type="in", magnitude=2.34),
    num_epoch=8,
)
print("%s %.2f" % model.score(data, perplexity)[0])
