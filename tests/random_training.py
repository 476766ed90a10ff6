"""Random trainings: a net of random layers, a loss, an optimiser and what people put around them, a part of it compiled.

    python tests/random_training.py [--count 100] [--first 0] [--smallest] [--backend triton] [--ahead-of-time] [--seconds 10]

As random_dynamics.py, whose judge and options it has: the text of each program stands alone.
"""
from __future__ import annotations

import random
import sys
import textwrap

from random_dynamics import RandomProgram, command, first_tame

#: What the programs are written with.
PREAMBLE = '''
class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Swapped(nn.Sequential):
    """On the channels of a sequence."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Recurrent(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)[0]


class Attention(nn.MultiheadAttention):
    def forward(self, x):
        return x + super().forward(x, x, x, need_weights=False)[0]


class Pooled(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return x.mean(1) if self.how == "mean" else x.amax(1) if self.how == "max" else x[:, -1]


class Checkpointed(nn.Sequential):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


class Experts(nn.Module):
    def __init__(self, size, count):
        super().__init__()
        self.gate, self.experts = nn.Linear(size, count), nn.ModuleList(nn.Linear(size, size) for _ in range(count))

    def forward(self, x):
        weights = self.gate(x).softmax(-1)
        return sum(w.unsqueeze(-1) * expert(x) for w, expert in zip(weights.unbind(-1), self.experts))


class Scaled(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.scale, self.calls = nn.Parameter(torch.ones(size)), 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        if self.training:
            with torch.no_grad():
                self.seen.mul_(0.9).add_(x.detach().abs().mean(), alpha=0.1)
        return x * self.scale / (1 + self.seen)


'''
POINTWISE = ("nn.ReLU()", "nn.GELU()", "nn.Tanh()", "nn.SiLU()", "nn.LeakyReLU(0.1)", "nn.ELU()", "nn.Softplus()",
             "nn.Hardswish()", "nn.Mish()", "nn.Sigmoid()", "nn.ReLU(inplace=True)", "nn.Dropout(0.2)", "nn.Identity()",
             "nn.PReLU()", "nn.GELU('tanh')", "nn.SELU()", "nn.Softsign()", "nn.ReLU6()")
#: By what a net is given: layers that give the same form as they are given; {inner} stands for some of these.
LAYERS = {
    "rows": (
        "nn.Linear(8, 8)", "nn.Linear(8, 8)", "nn.Linear(8, 8, bias=False)", "nn.BatchNorm1d(8)", "nn.LayerNorm(8)",
        "nn.RMSNorm(8)", "nn.GroupNorm(2, 8)", "nn.Sequential(nn.Linear(8, 16), nn.GLU())", "Experts(8, 2)", "Scaled(8)",
        "Residual({inner})", "Checkpointed({inner})", "nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))",
        "nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))"),
    "images": (
        "nn.Conv2d(4, 4, 3, padding=1)", "nn.Conv2d(4, 4, 3, padding=1, bias=False)", "nn.Conv2d(4, 4, 1)", "nn.BatchNorm2d(4)",
        "nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2)", "nn.Conv2d(4, 4, 3, padding='same', padding_mode='reflect')",
        "nn.GroupNorm(2, 4)", "nn.InstanceNorm2d(4, affine=True)", "nn.Dropout2d(0.2)", "nn.AvgPool2d(3, 1, 1)",
        "nn.MaxPool2d(3, 1, 1)", "nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2))", "Residual({inner})",
        "nn.Sequential(nn.Conv2d(4, 4, 2, stride=2), nn.ConvTranspose2d(4, 4, 2, stride=2))", "Checkpointed({inner})",
        "nn.Sequential(nn.Conv2d(4, 16, 1), nn.PixelShuffle(2), nn.AvgPool2d(2))"),
    "sequences": (
        "nn.Linear(8, 8)", "nn.LayerNorm(8)", "Attention(8, 2, batch_first=True)", "Recurrent(nn.GRU(8, 8, batch_first=True))",
        "Recurrent(nn.LSTM(8, 4, batch_first=True, bidirectional=True))", "Recurrent(nn.RNN(8, 8, batch_first=True))",
        "nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)", "Swapped(nn.Conv1d(8, 8, 3, padding=1))",
        "nn.TransformerEncoderLayer(8, 2, 16, 0.0, 'gelu', batch_first=True, norm_first=True)", "Residual({inner})",
        "Swapped(nn.BatchNorm1d(8))", "Experts(8, 2)", "Scaled(8)"),
}
#: By what a net is given: its beginnings, ends in rows of 8, and for each beginning an argument for a batch of {n}, {t} long.
FORMS = {
    "rows": (("", "nn.Linear(6, 8), "), ("",), ("torch.randn({n}, 8)", "torch.randn({n}, 6)")),
    "images": (("nn.Conv2d(3, 4, 3, padding=1), ", "nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), "),
               ("nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8)", "nn.Flatten(), nn.Linear(4 * 36, 8)"),
               ("torch.randn({n}, 3, 6, 6)", "torch.randn({n}, 1, 6, 6)")),
    "sequences": (("", "nn.Embedding(11, 8), "), ("Pooled('mean')", "Pooled('last')", "Pooled('max')"),
                  ("torch.randn({n}, {t}, 8)", "torch.randint(0, 11, ({n}, {t}))")),
}
#: A loss of the net's result `y` ([n, 4]), by how its target is made.
LOSSES = [(loss, target) for target, losses in {
    "torch.randint(0, 4, ({n},))": (
        "F.cross_entropy(y, target)", "F.cross_entropy(y, target)", "F.cross_entropy(y, target, label_smoothing=0.1)",
        "F.nll_loss(F.log_softmax(y, -1), target)", "F.multi_margin_loss(y, target)"),
    "torch.rand({n}, 4).softmax(-1)": (
        "F.cross_entropy(y, target)", "F.kl_div(F.log_softmax(y, -1), target, reduction='batchmean')",
        "F.binary_cross_entropy(y.sigmoid(), target)", "F.poisson_nll_loss(y, target)"),
    "torch.rand({n}, 4).round()": ("F.binary_cross_entropy_with_logits(y, target)",),
    "torch.randn({n}, 4)": (
        "F.mse_loss(y, target)", "F.smooth_l1_loss(y, target)", "F.huber_loss(y, target, delta=0.5)", "F.l1_loss(y, target)",
        "(1 - F.cosine_similarity(y, target, -1)).mean()", "F.triplet_margin_loss(y, target, target.roll(1, 0))",
        "F.gaussian_nll_loss(y[:, :2], target[:, :2], y[:, 2:].exp())"),
}.items() for loss in losses]
OPTIMIZERS = (
    "SGD({p}, 0.05)", "SGD({p}, 0.05, momentum=0.9)", "SGD({p}, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01)",
    "SGD({p}, 0.05, foreach=True, momentum=0.5)", "Adam({p}, 0.01)", "Adam({p}, 0.01, amsgrad=True)",
    "Adam({p}, 0.01, foreach=True)", "Adam({p}, torch.tensor(0.01))", "AdamW({p}, 0.01, weight_decay=0.1)",
    "AdamW({p}, 0.01, maximize=True)", "RMSprop({p}, 0.01)",
    "RMSprop({p}, 0.01, centered=True, momentum=0.5)", "Adagrad({p}, 0.05)", "Adadelta({p})", "Adamax({p}, 0.01)",
    "NAdam({p}, 0.01)", "RAdam({p}, 0.01)", "ASGD({p}, 0.05)", "Rprop({p}, 0.01)")
GROUPS = ("net.parameters()", "net.parameters()", "[p for p in net.parameters() if p.dim() > 1]",
          "[{'params': net[0].parameters(), 'lr': 0.02}, {'params': net[1:].parameters()}]")
SCHEDULES = (
    "StepLR(optimizer, 2, 0.5)", "ExponentialLR(optimizer, 0.9)", "CosineAnnealingLR(optimizer, 5)",
    "LambdaLR(optimizer, lambda epoch: 0.9 ** epoch)", "LinearLR(optimizer, 0.3, total_iters=3)",
    "CosineAnnealingWarmRestarts(optimizer, 2)")
#: What is done with gradients before a step.
GRADIENTS = (
    "nn.utils.clip_grad_norm_(net.parameters(), 0.5)", "nn.utils.clip_grad_value_(net.parameters(), 0.1)",
    "for p in net.parameters():\n    if p.grad is not None:\n        p.grad.mul_(0.5)",
    "norms.append(nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None]))")
#: What is done with the loss before its backward pass.
PENALTIES = (
    "loss = loss / 2", "loss = loss + 0.1 * y.pow(2).mean()", "loss = loss + 0.01 * sum(p.abs().sum() for p in net.parameters())",
    "loss = loss + sum(p.square().sum() for n, p in net.named_parameters() if 'weight' in n) * 1e-3")
METRICS = ("y.detach().argmax(-1)", "loss.item()", "y.detach().softmax(-1).amax(-1).mean()", "float(y.detach().std())")
#: What a caller does between steps.
CHANGES = (
    "for group in optimizer.param_groups:\n    group['lr'] = group['lr'] * 0.5", "net[-1].bias.requires_grad_(False)",
    "net.load_state_dict(copy.deepcopy(saved))", "saved = copy.deepcopy(net.state_dict())", "net[0].requires_grad_(False)",
    "net.requires_grad_(True)", "optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))", "net.zero_grad()",
    "with torch.no_grad():\n    for p in net.parameters():\n        p.mul_(0.95)", "net.eval()", "net.train()",
    "net[-1] = nn.Linear(8, 4)\noptimizer.add_param_group({'params': net[-1].parameters()})",
    "net[-1].weight.data = net[-1].weight.data * 0.5", "optimizer.state.clear()")


def random_training(seed: int) -> RandomProgram:
    """The training of a seed."""
    dice = random.Random(seed)
    return first_tame(f"training_{seed}", lambda: PREAMBLE + _Maker(dice).source())


class _Maker:
    """Writes one program."""

    def __init__(self, dice: random.Random):
        self.dice = dice
        self.kind = dice.choice((*LAYERS, "rows"))
        self.form = dice.randrange(2)
        self.loss, self.target = dice.choice(LOSSES)
        self.schedule = dice.choice(SCHEDULES) if dice.random() < 0.3 else ""
        self.autocast = dice.random() < 0.15

    def source(self) -> str:
        optimizer = self.dice.choice(OPTIMIZERS).format(p=self.dice.choice(GROUPS))
        lines = [f"net = {self.net()}", f"optimizer = torch.optim.{optimizer}",
                 "saved, norms = copy.deepcopy(net.state_dict()), []"]
        if self.schedule:
            lines.append(f"schedule = torch.optim.lr_scheduler.{self.schedule}")
        lines += self.dice.choice((self.whole_step, self.compiled_net, self.compiled_loss, self.compiled_step))()
        return "def program(compile):\n" + textwrap.indent("\n".join([*lines, *self.calls()]), "    ")

    # The net

    def net(self) -> str:
        starts, ends, _ = FORMS[self.kind]
        layers = ", ".join(self.layer(2) for _ in range(self.dice.randint(1, 4)))
        end = self.dice.choice(ends)
        return f"nn.Sequential({starts[self.form]}{layers}, {end}{', ' if end else ''}nn.Linear(8, 4))"

    def layer(self, depth: int) -> str:
        if self.dice.random() < 0.4:
            return self.dice.choice(POINTWISE)
        layer = self.dice.choice(LAYERS[self.kind])
        if "{inner}" in layer and not depth:
            return self.dice.choice(POINTWISE)
        return layer.format(inner=", ".join(self.layer(depth - 1) for _ in range(self.dice.randint(1, 2))))

    # What is compiled

    def forward(self, net: str) -> list[str]:
        lines = [f"y = {net}(x)", f"loss = {self.loss}"]
        return ["with torch.autocast('cpu', torch.bfloat16):", *(f"    {line}" for line in lines)] if self.autocast else lines

    def update(self) -> list[str]:
        """From the loss to the step."""
        dice = self.dice
        lines = [dice.choice(PENALTIES)] if dice.random() < 0.25 else []
        lines += [dice.choice(("optimizer.zero_grad()", "optimizer.zero_grad()", "optimizer.zero_grad(set_to_none=False)")),
                  "loss.backward()"] if dice.random() < 0.8 else ["loss.backward()"]
        lines += [dice.choice(GRADIENTS)] if dice.random() < 0.35 else []
        return [*lines, "optimizer.step()", *(["schedule.step()"] if self.schedule and dice.random() < 0.5 else [])]

    def given(self) -> str:
        results = self.dice.sample(METRICS, self.dice.randint(0, 2))
        return ", ".join(["loss.detach()", *results])

    def step(self, decorator: str, net: str = "net") -> list[str]:
        body = "\n".join([*self.forward(net), *self.update(), f"return {self.given()}"])
        return [decorator + "def step(x, target):", textwrap.indent(body, "    ")]

    def whole_step(self) -> list[str]:
        return self.step("@compile\n")

    def compiled_net(self) -> list[str]:
        return ["compiled = compile(net)", *self.step("", "compiled")]

    def compiled_loss(self) -> list[str]:
        body = textwrap.indent("\n".join([*self.forward("net"), "return y, loss"]), "    ")
        update = textwrap.indent("\n".join(["y, loss = forward(x, target)", *self.update(), f"return {self.given()}"]), "    ")
        return ["@compile\ndef forward(x, target):", body, "def step(x, target):", update]

    def compiled_step(self) -> list[str]:
        return ["optimizer.step = compile(optimizer.step)", *self.step("")] if not self.schedule else self.whole_step()

    # The calls

    def calls(self) -> list[str]:
        dice = self.dice
        sizes, lengths, changes = dice.random() < 0.5, dice.random() < 0.5, dice.random() < 0.5
        lines, argument = ["torch.manual_seed(7)"], FORMS[self.kind][2][self.form]
        for k in range(dice.randint(4, 6)):
            n, t = dice.choice((4, 6, 3, 2, 7)) if sizes else 4, dice.choice((5, 3, 7)) if lengths else 5
            if changes and k:
                lines.append(dice.choice(CHANGES))
            lines += [f"x, target = {argument.format(n=n, t=t)}, {self.target.format(n=n)}", "yield step(x, target)"]
            if self.schedule and dice.random() < 0.5:
                lines.append("schedule.step()")
        return lines


if __name__ == "__main__":
    sys.exit(command(random_training))
