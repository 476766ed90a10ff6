"""What asides show of state: of attributes, of items of containers, also of those that the call changes, and of gradients."""
import heapq
from collections import deque

import torch
from torch import nn

from .asides import X, heard
from .harness import program, tensor

STATISTICS = {"n": 0}
HISTORY = {"lists": {"loss": []}}
LOSSES = []
SETTINGS = {"name": "test", "steps": [1, 2]}


@program
def what_a_global_container_holds(compile):
    @compile
    def counting(x):
        print("before", STATISTICS["n"])
        STATISTICS["n"] += 1
        print("after", STATISTICS["n"])
        return x * 2

    @compile
    def collecting(x):
        LOSSES.append(x.sum().item())
        print(f"mean {sum(LOSSES) / len(LOSSES)}", LOSSES[-1], LOSSES)
        if len(LOSSES) == 3:
            LOSSES.clear()
        return x * 2

    @compile
    def nested(x):
        HISTORY["lists"]["loss"].append(x.mean().item())
        print(HISTORY["lists"], len(HISTORY["lists"]["loss"]))
        return x + 1

    @compile
    def reading(x):
        print(SETTINGS["name"], SETTINGS, len(SETTINGS["steps"]))
        SETTINGS["steps"][0] += 1
        return x - 1
    STATISTICS["n"] = 0
    HISTORY["lists"] = {"loss": []}
    LOSSES.clear()
    SETTINGS["steps"][:] = [1, 2]
    with heard() as text:
        for n in range(6):
            yield [f(X + n) for f in (counting, collecting, nested, reading)], text.getvalue()
            yield STATISTICS, HISTORY, LOSSES, SETTINGS


@program
def what_containers_of_others_hold(compile):
    settings, history = {"rate": 0.5, "sizes": [4, 8]}, []

    @compile
    def f(x, given):
        print(settings, settings["sizes"][1], given, given[0])
        history.append(1)
        return x * settings["rate"]

    @compile
    def g(x):
        history.append(2)
        print(history)
        return x * 2
    with heard() as text:
        for n in range(5):
            yield f(X + n, [n, n + 1]), g(X), text.getvalue()
        settings["rate"] = 0.25
        yield f(X, [1]), text.getvalue()


class Options:
    near, far = 1.0, 2.0


@program(exact=False)
def what_is_looked_up_in_others(compile):
    net = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    names, last = ["in", "out"], -1

    @compile
    def step(batch, k):
        loss = (net(batch["x"]) - batch["y"]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"rate {optimizer.param_groups[0]['lr']}", names[last], k, batch["x"].shape[0], batch["n"], batch["y"][0].item())
        print(optimizer.state[net[0].weight]["step"].item(), f"{net[0].weight[0, 1]:.2f}")
        return loss.detach()
    with heard() as text:
        for k in range(7):
            yield step({"x": tensor(3 + k % 2, 8), "y": tensor(1), "n": k // 3}, k), text.getvalue()
            scheduler.step()


@program(exact=False)
def gradients_shown(compile):
    net = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)

    @compile
    def step(x):
        loss = net(x).square().mean()
        loss.backward()
        print(f"{net[0].weight.grad.norm().item():.3f}")
        nn.utils.clip_grad_norm_(net.parameters(), 0.125)
        for name, p in net.named_parameters():
            print(name, f"{p.grad.abs().sum():.3f}")
        optimizer.step()
        optimizer.zero_grad()
        print(net[0].weight.grad)
        return loss.detach()
    with heard() as text:
        for k in range(5):
            yield step(X + k), text.getvalue()


@program(exact=False)
def containers_that_the_run_has_changed(compile):
    counts, recent, state = {"right": 0, "all": 0}, deque(maxlen=3), {"best": [9.0, -1], "sums": {"n": 0}}

    @compile
    def f(x, k):
        counts["right"] += (x > 0).sum().item()
        counts["all"] += x.numel()
        loss = x.abs().mean().item()
        recent.append(loss)
        if loss < state["best"][0]:
            state["best"][:] = loss, k
        state["sums"]["n"] += 1
        print("%d of %d" % (counts["right"], counts["all"]), f"{100 * counts['right'] / counts['all']:.1f}", sorted(counts))
        print(f"{sum(recent) / len(recent):.3f}", state["best"][1], state["sums"], len(state))
        counts["all"] += 1
        return x * 2
    with heard() as text:
        for k in range(8):
            yield f(tensor(4, 8) + (k % 3 - 1), k), counts, recent, state, text.getvalue()


@program
def containers_changed_in_them(compile):
    queue, heap = deque(range(9)), [1, 2, 3, 4, 5, 6]

    @compile
    def popping(x):
        parts = [1, 2, x.sum()]
        print(parts.pop().item(), len(parts))
        return x + len(parts)

    @compile
    def turning(x):
        print(queue.popleft(), queue[0])
        return x * queue[0]

    @compile
    def heaping(x):
        print(heap[0], heapq.heappop(heap), heap[0])
        return x * heap[0]
    with heard() as text:
        for k in range(4):
            yield popping(X + k), turning(X), heaping(X), queue, heap, text.getvalue()


@program
def chosen_in_them(compile):
    options, numbers = Options(), [5, 6, 7]

    @compile
    def f(x, n):
        print(options.near if n > 3 else options.far, n > 3 and options.near)
        print([numbers[n] for n in range(3)], numbers[0] if n else "none")
        return x * n

    @compile
    def g(x):
        total = x.sum().item()
        print(options.near if total > 0 else options.far)
        return x * total
    with heard() as text:
        for n in (1, 2, 5, 1, 7, 8, 0, 3):
            yield f(X, n), g(X * (4 - n)), text.getvalue()
            options.near, options.far = options.near + 1, options.far - 0.5
            numbers[0] = n


@program(exact=False)
def what_libraries_tell_of_what_was_set(compile):
    """A scheduler's method, called to print, reads what the scheduler set before."""
    net = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    @compile
    def step(x):
        print("before", scheduler.get_last_lr()[0])
        loss = net(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        print("after", scheduler.get_last_lr()[0], scheduler.last_epoch)
        return loss.detach()

    @compile
    def telling(x):
        print(scheduler.get_last_lr()[0], [f"{rate:.3f}" for rate in scheduler.get_last_lr()])
        return x * scheduler.get_last_lr()[0]
    with heard() as text:
        for k in range(6):
            yield step(X + k), telling(X), text.getvalue()


@program
def attributes_in_comprehensions(compile):
    net = nn.Sequential(nn.Linear(8, 2), nn.ReLU())

    @compile
    def f(x):
        print([layer.training for layer in net.children()], {name: p.shape for name, p in net.named_parameters()})
        return net(x)

    @compile
    def g(x):
        net.train(not net.training)
        print([layer.training for layer in net.children()])
        return net(x)
    with heard() as text:
        for _ in range(4):
            yield f(X), g(X), text.getvalue()


@program(exact=False)
def lengths_shown(compile):
    data = torch.utils.data.TensorDataset(tensor(6, 8), tensor(6, 1))
    loader, net = torch.utils.data.DataLoader(data, batch_size=2), nn.Linear(8, 1)

    @compile
    def step(epoch, k, x, y):
        loss = (net(x) - y).square().mean()
        print("epoch {} [{}/{} ({:.0f}%)] {:.3f}".format(
            epoch, k * len(x), len(loader.dataset), 100. * k / len(loader), loss.item()))
        return loss

    @compile
    def over(batches):
        total = 0.0
        for k, batch in enumerate(batches):
            total = total + batch.sum()
            print(f"{k + 1} of {len(batches)}: {total.item():.3f}", len(batch))
        return total
    with heard() as text:
        for epoch in range(3):
            for k, (x, y) in enumerate(loader):
                yield step(epoch, k, x, y), over([x + k] * (2 + epoch % 2)), text.getvalue()
