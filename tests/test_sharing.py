"""Kernels that differ in numbers alone are one C function, and compute what each of them computes by itself."""
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import smelt
from smelt.codegen.c import sharing


def norms(*xs):
    """Columns and rows of several widths, their sums, and arrays as large as these."""
    return [(F.relu(F.batch_norm(x, None, None, training=True)), F.softmax(x, 1), F.layer_norm(x, x.shape[1:])) for x in xs]


def scaled(*xs):
    """Floats in values."""
    return [torch.tanh(x * (0.5 + k) + k / 7) / (3 + k) for k, x in enumerate(xs)]


def counted(*xs):
    """Integers in values, and shifts: no parameters, for their type is that of vectors. So every second one is alike."""
    return [(n * (k + 2) + 5, n // (k + 3), n << k + 1, n > k) for k, n in ((i % 2, (x * 10).int()) for i, x in enumerate(xs))]


def moved(*xs):
    """Strides, transposes, slices and rows taken by index."""
    return [(x.T * 2, x[1:, 2:] + 1, x[:, ::3].exp(), x[torch.arange(x.shape[0]) % 2] - 1) for x in xs]


def whole(*xs):
    """Sums over everything, some with a rest behind the last full vector."""
    return [x.square().sum() / x.numel() for x in xs]


WIDTHS = (24, 48, 160, 40, 96, 33, 65, 129, 256, 320)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("function", [norms, scaled, counted, moved, whole], ids=lambda f: f.__name__)
def test_sharing_changes_no_bit(function, dtype, monkeypatch):
    torch.manual_seed(0)
    inputs = [torch.randn(6 + n // 32, n).to(dtype).requires_grad_() for n in WIDTHS]
    found, sources = [], []
    for alike in (2, 10 ** 6):
        monkeypatch.setattr(sharing, "ALIKE", alike)
        compiled = smelt.compile(function, fullgraph=True)
        for _ in range(2):
            results = [t for r in compiled(*inputs) for t in (r if isinstance(r, tuple) else (r,))]
            total = [(t.float() ** 2).sum() for t in results if t.requires_grad]
            found.append(results + list(torch.autograd.grad(total, inputs) if total else ()))
        sources.append(smelt.show(compiled, "c"))
    for ours, alone in zip(found[1], found[3], strict=True):
        assert torch.equal(ours, alone)
    assert "kernels, which differ in" in sources[0] and "kernels, which differ in" not in sources[1]
    assert len(functions(sources[0])) < len(functions(sources[1]))


def functions(source: str) -> list[str]:
    return re.findall(r"^(?:static )?void (\w+)\(.*\{$", source, re.MULTILINE)


def test_layers_of_several_widths_are_one_function_each():
    torch.manual_seed(0)
    widths = (64, 96, 160, 224, 128)
    net = nn.Sequential(*(nn.Sequential(nn.Conv2d(a, b, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in zip(widths, widths[1:])))
    compiled = smelt.compile(net.eval(), fullgraph=True)
    with torch.no_grad():
        for _ in range(2):
            x = torch.randn(2, 64, 8, 8)
            torch.testing.assert_close(compiled(x), net(x))
    source = smelt.show(compiled, "c")
    assert "// 4 kernels, which differ in n0;" in source
    names = functions(source)
    assert len(names) == 2 and all(source.count(f"{name}(slots[") == 4 for name in names)


def test_norms_that_stand_side_by_side_are_one_function():
    """As in clip_grad_norm_: each is written to a place of its own in the tensor that stacks them."""
    torch.manual_seed(0)
    xs = [torch.randn(128) for _ in range(6)]
    compiled = smelt.compile(lambda *xs: torch.stack([torch.linalg.vector_norm(x) for x in xs]).sum(), fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(compiled(*xs), torch.stack([torch.linalg.vector_norm(x) for x in xs]).sum())
    source = smelt.show(compiled, "c")
    assert "// 6 kernels, which differ in n0;" in source and len(functions(source)) == 2
