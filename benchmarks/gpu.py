"""Eager, torch.compile and smelt on a GPU: python benchmarks/gpu.py [--only name] [--inductor] [--scale 0.1] [--list] [--dry]

Medians by CUDA events, each side in turn. `share` is the bytes that smelt's kernels read and write, over the time and the
measured bandwidth of a copy. The table is also written to benchmarks/results/<device>.json.
"""
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Iterator

import torch
import torch.nn.functional as F

RESULTS = Path(__file__).parent / "results"
ROUNDS = 30
DEVICE = "cuda"
#: Of the sizes in a dry run, which Triton's interpreter can do.
TINY = 1e-6
#: Written between runs, so that no run finds its inputs in the cache.
FLUSH_BYTES = 256 << 20


@dataclass(frozen=True)
class Program:
    """`make(scale)` gives a function and its arguments; `train`: with the backward of its sum."""
    name: str
    make: Callable[[float], tuple[Callable, list[torch.Tensor]]]
    train: bool = False


@dataclass
class Row:
    """Milliseconds by side, and what is known of smelt's program."""
    name: str
    milliseconds: dict[str, float]
    compile_seconds: float
    bytes: int
    share: float
    peak_bytes: int


def random(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, device=DEVICE).requires_grad_(grad)


def rows(scale: float, width: int, elements: int = 1 << 27) -> int:
    return max(int(elements * scale) // width, 1)


def programs() -> Iterator[Program]:
    yield from pointwise()
    for train in (False, True):
        yield from differentiable(train)
    yield from others()


def pointwise() -> Iterator[Program]:
    def chain(scale):
        n = rows(scale, 4096)
        return (lambda x, y: torch.tanh(x * y + 0.5) * torch.relu(x - y)), [random(n, 4096), random(n, 4096)]
    yield Program("fused chain", chain)

    def gelu(scale):
        return (lambda x, b: F.gelu(x + b)), [random(rows(scale, 4096), 4096), random(4096)]
    yield Program("bias gelu", gelu)

    def gelu_dropout(scale):
        return (lambda x, b: F.dropout(F.gelu(x + b), 0.1)), [random(rows(scale, 4096), 4096), random(4096)]
    yield Program("bias gelu dropout", gelu_dropout)

    def rotary(scale):
        n = rows(scale, 16 * 64)

        def rotate(x, cos, sin):
            a, b = x.chunk(2, -1)
            return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
        return rotate, [random(n, 16, 64), random(n, 1, 32), random(n, 1, 32)]
    yield Program("rotary embedding", rotary)


def differentiable(train: bool) -> Iterator[Program]:
    """Programs that are measured without and with their backward."""
    what = " forward+backward" if train else ""

    def layer_norm(scale):
        w = 4096
        return (lambda x, a, b: F.layer_norm(x, (w,), a, b)), [random(rows(scale, w), w, grad=train), random(w, grad=train),
                                                              random(w, grad=train)]
    yield Program("layer norm" + what, layer_norm, train)

    def rms_norm(scale):
        w = 4096
        return (lambda x, a: F.rms_norm(x, (w,), a)), [random(rows(scale, w), w, grad=train), random(w, grad=train)]
    yield Program("rms norm" + what, rms_norm, train)

    for width in (256, 1024, 4096, 16384, 65536):
        def softmax(scale, width=width):
            return (lambda x: torch.softmax(x, -1)), [random(rows(scale, width), width, grad=train)]
        yield Program(f"softmax {width}" + what, softmax, train)

    for classes in (50257, 128256):
        def cross_entropy(scale, classes=classes):
            n = max(int(8192 * scale), 8)
            return F.cross_entropy, [random(n, classes, grad=train), torch.randint(0, classes, (n,), device=DEVICE)]
        yield Program(f"cross entropy {classes}" + what, cross_entropy, train)

    def swiglu(scale):
        n = rows(scale, 8192)
        return (lambda x, g: F.silu(g) * x), [random(n, 8192, grad=train), random(n, 8192, grad=train)]
    yield Program("swiglu" + what, swiglu, train)

    def batch_norm(scale):
        n = max(int(256 * scale), 2)
        return (lambda x, a, b: F.batch_norm(x, None, None, a, b, training=True)), [
            random(n, 64, 56, 56, grad=train), random(64, grad=train), random(64, grad=train)]
    yield Program("batch norm" + what, batch_norm, train)


def others() -> Iterator[Program]:
    """Programs that read along more than one axis, or many tensors."""
    for dim in (0, 1):
        def mean(scale, dim=dim):
            return (lambda x: x.mean(dim)), [random(rows(scale, 8192), 8192)]
        yield Program(f"mean over axis {dim}", mean)

    def transposed(scale):
        n = max(int((1 << 27) * scale) ** 0.5, 32)
        return (lambda x, y: x + y.t()), [random(int(n), int(n)), random(int(n), int(n))]
    yield Program("x + y.t()", transposed)

    def adam(scale):
        count, n = 100, max(int(1_000_000 * scale), 1)
        parameters = [random(n) for _ in range(4 * count)]

        def step(*tensors):
            made = []
            for p, g, m, v in zip(*(tensors[k * count:(k + 1) * count] for k in range(4))):
                m, v = m * 0.9 + g * 0.1, v * 0.999 + g * g * 0.001
                made += [p - 1e-3 * m / (v.sqrt() + 1e-8), m, v]
            return tuple(made)
        return step, [p.abs() for p in parameters]
    yield Program("Adam, 100 tensors", adam)


def models() -> Iterator[Program]:
    """Each with its backward: `sum` of what it gives."""
    def of(model: torch.nn.Module, *arguments: torch.Tensor, autocast: bool = False):
        model = model.to(DEVICE)
        names, parameters = zip(*model.named_parameters())

        def call(*tensors):
            with torch.autocast(torch.device(DEVICE).type, torch.bfloat16, enabled=autocast):
                given = dict(zip(names, tensors[len(arguments):]))
                return torch.func.functional_call(model, given, tensors[:len(arguments)])
        return call, [*arguments, *parameters]

    def batch(scale: float, most: int) -> int:
        return max(int(most * scale), 2)

    def classifier(scale):
        layers = [torch.nn.Linear(784, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)]
        return of(torch.nn.Sequential(*layers), random(batch(scale, 64), 784))
    yield Program("classifier forward+backward", classifier, True)

    def residual(scale):
        return of(Residual(64), random(batch(scale, 64), 64, *[max(int(56 * min(1, 1e5 * scale)), 2)] * 2))
    yield Program("ResNet-like block forward+backward", residual, True)

    def transformer(scale):
        width = 768 if scale > TINY else 24
        return of(Transformer(width), random(batch(scale, 8), batch(scale, 1024), width), autocast=True)
    yield Program("GPT-2-small block, bfloat16 forward+backward", transformer, True)


class Residual(torch.nn.Module):
    """Two convolutions with batch norm, and the input added."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = (torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(channels, track_running_stats=False) for _ in range(2))

    def forward(self, x):
        return torch.relu(x + self.norms[1](self.second(torch.relu(self.norms[0](self.first(x))))))


class Transformer(torch.nn.Module):
    """A block of attention with 12 heads and a layer of 4 times the width."""

    def __init__(self, width: int):
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width) for _ in range(2))
        self.attend, self.mix = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x):
        heads = (t.unflatten(-1, (12, -1)).transpose(1, 2) for t in self.attend(self.norms[0](x)).chunk(3, -1))
        x = x + self.mix(F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norms[1](x)), approximate="tanh"))


def dry_run(program: Program) -> str:
    """Whether a program compiles and gives what eager gives, at a tiny size in Triton's interpreter."""
    import smelt
    torch.manual_seed(0)
    function, arguments = program.make(TINY)
    compiled = smelt.compile(function, backend="triton", fullgraph=True, verify="raise")
    step_of(program, compiled, arguments)()
    return "compiled" if smelt.explain(compiled).compiled else "not compiled"


def step_of(program: Program, function: Callable, arguments: list[torch.Tensor]) -> Callable[[], None]:
    """One run: a call, or a call and its backward."""
    if not program.train:
        return lambda: function(*arguments)
    leaves = [a for a in arguments if a.requires_grad]

    def step():
        for leaf in leaves:
            leaf.grad = None
        function(*arguments).sum().backward()
    return step


def measure(sides: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median milliseconds of each side, in turn, with a cold cache."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    times: dict[str, list[float]] = {k: [] for k in sides}
    for _ in range(ROUNDS):
        for name, run in sides.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end))
    return {k: statistics.median(t) for k, t in times.items()}


def copy_bandwidth() -> float:
    """Bytes per second of a device copy of 1 GB, read and written."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    return 2 * a.numel() / (measure({"copy": lambda: b.copy_(a)})["copy"] / 1e3)


def run(program: Program, scale: float, bandwidth: float, inductor: bool) -> Row:
    import smelt
    torch.manual_seed(0)
    function, arguments = program.make(scale)
    compiled = smelt.compile(function, fullgraph=True)
    ours = step_of(program, compiled, arguments)
    start = time.perf_counter()
    ours(), ours()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    torch.cuda.reset_peak_memory_stats()
    ours()
    peak = torch.cuda.max_memory_allocated()
    replayed = smelt.compile(function, fullgraph=True, mode="reduce-overhead")
    sides = {"eager": step_of(program, function, arguments), "smelt": ours,
             "smelt reduce-overhead": step_of(program, replayed, arguments)}
    if inductor:
        for mode in ("default", "max-autotune"):
            sides[f"inductor {mode}"] = step_of(program, torch.compile(function, mode=mode), arguments)
    for side in sides.values():
        side()
    moved = smelt.explain(compiled).bytes
    times = measure(sides)
    return Row(program.name, times, seconds, moved, moved / (times["smelt"] / 1e3) / bandwidth, peak)


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="programs with this in their name")
    parser.add_argument("--inductor", action="store_true", help="also torch.compile, default and max-autotune")
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes: 1.0 is about 0.5 GB a tensor")
    parser.add_argument("--list", action="store_true", help="the programs' names")
    parser.add_argument("--dry", action="store_true", help="each at a tiny size in Triton's interpreter, without a GPU")
    options = parser.parse_args()
    chosen = [p for p in (*programs(), *models()) if options.only in p.name]
    if options.list or options.dry:
        global DEVICE
        DEVICE = "cpu"
        for program in chosen:
            print(f"{program.name:<48} {dry_run(program) if options.dry else ''}".rstrip(), flush=True)
        return 0
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: torch sees no GPU here, so there is nothing to measure")
        return 0
    import triton
    bandwidth = copy_bandwidth()
    device = torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}, triton {triton.__version__}; a copy moves {bandwidth / 1e9:.0f} GB/s")
    found = []
    for program in chosen:
        row = run(program, options.scale, bandwidth, options.inductor)
        found.append(row)
        sides = "  ".join(f"{k} {t:8.3f} ms" for k, t in row.milliseconds.items())
        print(f"{row.name:<48} {sides}  {row.share:5.0%} of a copy  compiled in {row.compile_seconds:.1f} s", flush=True)
        torch.cuda.empty_cache()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{device.replace(' ', '-')}.json"
    facts = {"device": device, "torch": torch.__version__, "triton": triton.__version__, "commit": commit(),
             "scale": options.scale, "copy_bytes_per_second": bandwidth, "rows": [asdict(r) for r in found]}
    path.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
