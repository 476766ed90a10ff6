"""Networks that a run reads, and whose weights, layers, hooks and modes change before the next call."""
import copy

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from .harness import backward, calls, leaf, outcome, program, tensor, whole

X = tensor(4)


@program
def training_and_evaluation(compile):
    net = whole(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2)))
    f = compile(net)
    for training in (False, True, False, True):
        net.train(training)
        yield from calls(f, X)
    net[1].p = 1.0
    yield from calls(f, X)
    net[1].eval()
    yield from calls(f, X)


@program
def submodules_replaced(compile):
    net = whole(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    f = compile(net)
    yield from calls(f, X)
    net[1] = nn.Hardtanh()
    yield from calls(f, X)
    net[2] = whole(nn.Linear(4, 3), 0.25)
    yield from calls(f, X)
    net.append(nn.ReLU())
    yield from calls(f, X)
    del net[0]
    yield from calls(f, X)
    net[0].forward = lambda x: x * 2
    yield from calls(f, X)


@program(exact=False)
def parameters_replaced(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(net)
    yield backward(f(X))
    net.weight = nn.Parameter(tensor(2, 4) * 3)
    yield from (backward(y) for y in calls(f, X))
    net.bias = None
    yield from (backward(y) for y in calls(f, X))
    net.weight.data = tensor(2, 4) * 5
    yield from (backward(y) for y in calls(f, X))
    net.weight.data = tensor(3, 4)
    with torch.no_grad():
        yield from calls(f, X)


@program
def weights_written_to(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(net)
    other = copy.deepcopy(net.state_dict())
    yield from calls(f, X)
    with torch.no_grad():
        net.weight.mul_(2)
    yield from calls(f, X)
    net.load_state_dict({k: v * 3 for k, v in other.items()})
    yield from calls(f, X)
    net.load_state_dict({k: v * 5 for k, v in other.items()}, assign=True)
    yield from calls(f, X)
    nn.init.zeros_(net.weight)
    yield from calls(f, X)


@program
def dtype_of_a_module(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(net)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float64):
        net.to(dtype)
        yield from calls(f, X.to(dtype))
    yield outcome(f, X)


@program(exact=False)
def gradients_toggled(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(net)
    yield backward(f(X))
    for flags in ((False, True), (True, False), (False, False), (True, True)):
        net.weight.requires_grad_(flags[0])
        net.bias.requires_grad_(flags[1])
        for y in calls(f, X):
            yield backward(y) if any(flags) else y
    net.requires_grad_(False)
    x = leaf(4)
    yield backward(f(x))


@program(exact=False)
def hooks_of_modules(compile):
    net = whole(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    f = compile(net)
    yield from calls(f, X)
    doubled = net[0].register_forward_hook(lambda module, args, out: out * 2)
    yield from calls(f, X)
    shifted = net.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    yield from calls(f, X)
    doubled.remove()
    yield from calls(f, X)
    shifted.remove()
    scaled = net[0].register_full_backward_hook(lambda module, given, taken: tuple(g * 3 for g in given if g is not None))
    yield from (backward(y) for y in calls(f, leaf(4)))
    scaled.remove()
    yield from (backward(y) for y in calls(f, leaf(4)))


@program
def hooks_of_all_modules(compile):
    f = compile(whole(nn.Linear(4, 2)))
    yield from calls(f, X)
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: out + 10)
    try:
        yield from calls(f, X)
    finally:
        handle.remove()
    yield from calls(f, X)


@program
def buffers(compile):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("shift", tensor(4))

        def forward(self, x):
            return x + self.shift
    net = Shifted()
    f = compile(net)
    yield from calls(f, X)
    net.shift.mul_(2)
    yield from calls(f, X)
    net.shift = tensor(4) + 7
    yield from calls(f, X)
    net.shift = tensor(1)
    yield from calls(f, X)
    net.register_buffer("shift", None)
    yield outcome(f, X)


@program(exact=False)
def parametrizations_added(compile):
    class Doubled(nn.Module):
        def forward(self, w):
            return w * 2
    net = whole(nn.Linear(4, 2))
    f = compile(net)
    yield from calls(f, X)
    parametrize.register_parametrization(net, "weight", Doubled())
    yield from calls(f, X)
    parametrize.remove_parametrizations(net, "weight")
    yield from calls(f, X)
    parametrizations.weight_norm(net)
    yield from (backward(y) for y in calls(f, X))


@program
def pruned(compile):
    net = whole(nn.Linear(4, 2))
    f = compile(net)
    yield from calls(f, X)
    prune.l1_unstructured(net, "weight", 3)
    yield from calls(f, X)
    prune.remove(net, "weight")
    yield from calls(f, X)


@program(exact=False)
def shared_weights(compile):
    one, two = whole(nn.Linear(4, 4)), whole(nn.Linear(4, 4), 0.25)
    f = compile(lambda x: one(two(x)))
    yield backward(f(X))
    two.weight = one.weight
    for p in (*one.parameters(), *two.parameters()):
        p.grad = None
    yield from (backward(y) for y in calls(f, X))
    two.weight = nn.Parameter(tensor(4, 4))
    yield from (backward(y) for y in calls(f, X))


@program
def module_lists_and_dicts(compile):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(whole(nn.Linear(4, 4), k / 4) for k in (1, 2))
            self.heads = nn.ModuleDict({"a": whole(nn.Linear(4, 2)), "b": whole(nn.Linear(4, 3))})
            self.head = "a"

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.heads[self.head](x)
    net = Net()
    f = compile(net)
    yield from calls(f, X)
    net.head = "b"
    yield from calls(f, X)
    net.layers.append(whole(nn.Linear(4, 4), 1.0))
    yield from calls(f, X)
    net.layers = net.layers[1:]
    yield from calls(f, X)
    net.heads["b"] = whole(nn.Linear(4, 1))
    yield from calls(f, X)
