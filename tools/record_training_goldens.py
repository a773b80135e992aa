"""Records what PyTorch computes in training, for the tests: `python tools/record_training_goldens.py`, where PyTorch is
installed. Writes tests/training/goldens.npz; PyTorch is no dependency of the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

TARGET = Path(__file__).parent.parent / "tests" / "training" / "goldens.npz"
STEPS = 20

#: Name -> a PyTorch optimizer for these parameters. tests/training/test_goldens.py has ours of the same names.
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adam_decay": lambda p: torch.optim.Adam(p, 0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.005, alpha=0.9, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.05, lr_decay=0.01),
}
#: Of torch.optim.lr_scheduler; the rate of each step.
SCHEDULES = {
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40, eta_min=0.01),
    "one_cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=40, cycle_momentum=False),
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 7, 0.3),
}


#: A learning rate at which MobileNetV2 as initialised learns without leaping about.
GENTLE = 5e-6
#: Of MobileNetV2, recorded after all steps: of its beginning, its middle and its end, of each kind of layer.
MOBILENET_PARAMETERS = (
    "stem.conv.weight",
    "blocks.3.depthwise.conv.weight",
    "blocks.8.depthwise.norm.weight",
    "blocks.8.expand.norm.bias",
    "blocks.12.project.conv.weight",
    "classifier.weight",
    "classifier.bias",
)


def perceptron(record: dict[str, np.ndarray]) -> None:
    """Two linear layers with a tanh between, 20 steps of each optimizer."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((16, 6)), random.integers(0, 3, 16)
    start = {
        "first.weight": random.standard_normal((6, 16)) * 0.4,
        "first.bias": random.standard_normal(16) * 0.1,
        "second.weight": random.standard_normal((16, 3)) * 0.4,
        "second.bias": np.zeros(3),
    }
    record |= {"perceptron/x": x, "perceptron/y": y, **{f"perceptron/{n}": v for n, v in start.items()}}
    for name, make in OPTIMIZERS.items():
        p = {n: torch.tensor(v.astype(np.float32), requires_grad=True) for n, v in start.items()}
        optimizer = make(list(p.values()))
        losses = []
        for _ in range(STEPS):
            hidden = torch.tanh(torch.tensor(x.astype(np.float32)) @ p["first.weight"] + p["first.bias"])
            loss = F.cross_entropy(hidden @ p["second.weight"] + p["second.bias"], torch.tensor(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        record[f"{name}/losses"] = np.array(losses)
        record |= {f"{name}/{n}": v.detach().numpy() for n, v in p.items()}


def losses(record: dict[str, np.ndarray]) -> None:
    """Values and gradients of the losses."""
    random = np.random.default_rng(1)
    logits, other = random.standard_normal((7, 5)) * 3, random.standard_normal((7, 5)) * 3
    labels, shares = random.integers(0, 5, 7), random.uniform(0, 1, (7, 5))
    soft = np.exp(other) / np.exp(other).sum(axis=1, keepdims=True)
    record |= {"losses/logits": logits, "losses/other": other, "losses/labels": labels, "losses/shares": shares}
    record["losses/soft"] = soft
    o, s, p = (torch.tensor(a) for a in (other, shares, soft))
    found = {
        "cross_entropy": lambda x: F.cross_entropy(x, torch.tensor(labels)),
        "smoothed": lambda x: F.cross_entropy(x, torch.tensor(labels), label_smoothing=0.1),
        "soft_targets": lambda x: F.cross_entropy(x, p),
        "soft_smoothed": lambda x: F.cross_entropy(x, p, label_smoothing=0.2),
        "binary": lambda x: F.binary_cross_entropy_with_logits(x, s),
        "mse": lambda x: F.mse_loss(x, o),
        "l1": lambda x: F.l1_loss(x, o),
        "huber": lambda x: F.huber_loss(x, o, delta=0.7),
        "smooth_l1": lambda x: F.smooth_l1_loss(x, o, beta=0.7),
        "distillation": lambda x: (
            9.0 * F.kl_div(F.log_softmax(x / 3, 1), F.log_softmax(o / 3, 1), reduction="batchmean", log_target=True)
        ),
    }
    for name, function in found.items():
        x = torch.tensor(logits, requires_grad=True)
        value = function(x)
        value.backward()
        record[f"losses/{name}"], record[f"losses/{name}/gradient"] = np.array(value.item()), x.grad.numpy()


def schedules(record: dict[str, np.ndarray]) -> None:
    """Learning rates over 40 steps."""
    for name, make in SCHEDULES.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
        schedule = make(optimizer)
        rates = []
        for _ in range(40):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if len(rates) < 40:
                schedule.step()
        record[f"schedules/{name}"] = np.array(rates)


def mobilenet(record: dict[str, np.ndarray]) -> None:
    """MobileNetV2 (width 0.35, 64x64) with batch norm: losses of 20 steps of SGD with momentum, the first gradients,
    in float64, so that what differs is ours; and the parameters after 20 steps at a rate so low that paths that part
    at a corner of ReLU6 stay together."""
    import homespun.zoo

    model = homespun.zoo.mobilenet_v2(classes=5, width=0.35, image_size=64, dropout=0.0, seed=1)
    p = {n: torch.tensor(v.astype(np.float64), requires_grad=True) for n, v in model.parameters().items()}
    running: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    random = np.random.default_rng(2)
    x, y = random.standard_normal((16, 64, 64, 3)).astype(np.float32), random.integers(0, 5, 16)
    record |= {"mobilenet/y": y}

    def run(image: torch.Tensor) -> torch.Tensor:
        values = {"image": image}
        for node in model.nodes:
            a, inputs = node.attributes, [values[n] for n in node.inputs if n in values]
            if node.op == "conv2d":
                w = p[node.inputs[1]].permute(3, 2, 0, 1)
                out = F.conv2d(inputs[0], w, None, a["stride"], a["padding"][:2], 1, a["groups"])
            elif node.op == "batch_norm":
                size = p[node.inputs[1]].shape
                mean, variance = running.setdefault(node.name, (torch.zeros(size).double(), torch.ones(size).double()))
                out = F.batch_norm(inputs[0], mean, variance, p[node.inputs[1]], p[node.inputs[2]], True, 0.1, a["eps"])
            elif node.op == "relu6":
                out = F.relu6(inputs[0])
            elif node.op == "add":
                out = inputs[0] + inputs[1]
            elif node.op == "global_average_pool":
                out = inputs[0].mean((2, 3))
            elif node.op == "flatten":
                out = inputs[0]
            else:
                out = inputs[0] @ p[node.inputs[1]] + p[node.inputs[2]]
            values[node.outputs[0]] = out
        return values[model.outputs[0]]

    image = torch.tensor(x.astype(np.float64)).permute(0, 3, 1, 2)

    def train(rate: float) -> list[float]:
        optimizer = torch.optim.SGD(p.values(), rate, momentum=0.9)
        losses = []
        for _ in range(STEPS):
            loss = F.cross_entropy(run(image), torch.tensor(y))
            optimizer.zero_grad()
            loss.backward()
            if "mobilenet/norms" not in record:
                for name in ("stem.conv.weight", "blocks.3.depthwise.conv.weight", "blocks.8.expand.norm.bias"):
                    record[f"mobilenet/gradient/{name}"] = p[name].grad.numpy().astype(np.float32)
                record["mobilenet/norms"] = np.array([float(v.grad.norm()) for v in p.values()])
            optimizer.step()
            losses.append(loss.item())
        return losses

    record["mobilenet/losses"] = np.array(train(0.0005))
    record["mobilenet/running_mean"] = running["stem.norm"][0].numpy().copy()
    record["mobilenet/running_variance"] = running["stem.norm"][1].numpy().copy()
    with torch.no_grad():
        for name, value in model.parameters().items():
            p[name].copy_(torch.tensor(value.astype(np.float64)))
    record["mobilenet/gentle/losses"] = np.array(train(GENTLE))
    for name in MOBILENET_PARAMETERS:
        record[f"mobilenet/gentle/{name}"] = p[name].detach().numpy().astype(np.float32)


def main() -> None:
    record: dict[str, np.ndarray] = {}
    perceptron(record)
    losses(record)
    schedules(record)
    mobilenet(record)
    np.savez_compressed(TARGET, **record)
    print(f"{TARGET}: {TARGET.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
