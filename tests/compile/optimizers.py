"""Every optimizer, with the options that change what its kernel computes."""

from __future__ import annotations

from homespun import optim

OPTIMIZERS = [
    optim.SGD(0.1),
    optim.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    optim.Adam(0.01, weight_decay=0.01, clip_value=0.003),
    optim.AdamW(0.01, weight_decay=0.1),
    optim.RMSprop(0.01, momentum=0.5),
    optim.Adagrad(0.1),
    optim.Lion(0.01),
]
