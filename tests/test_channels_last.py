"""Images with the channels last: which values a graph lays so, and that programs give what eager gives, laid out the same."""
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import smelt
from smelt.codegen.c.backend import CBackend
from smelt.compiler import evaluate, parse, show, verify
from smelt.compiler.passes import channels_last

CONVOLUTION = "stride=(1, 1), padding=(1, 1), dilation=(1, 1), transposed=False, output_padding=(0, 0), groups=1"
POOL = "kernel_size=(2, 2), stride=(2, 2), padding=0, dilation=1, ceil_mode=False"


def graph(*lines: str, more: str = ""):
    inputs = "%x: f32[2,8,6,4], %w: f32[8,8,3,3], %s: f32[1,8,1,1]" + more
    return verify(parse(f"graph f({inputs}) {{\n" + "\n".join(lines) + "\n}"))


def laid_out(g) -> set[str]:
    """The values that the pass moves."""
    after = verify(channels_last(g, lambda channels, places: channels == 8 and places == 48))
    x = [torch.randn(i.shape) for i in g.inputs]
    torch.testing.assert_close(evaluate(after, x), evaluate(g, x))
    assert show(parse(show(after))) == show(after)
    before = {v.name: v.type for v in g.values}
    return {v.name for v in after.values if v.type != before.get(v.name)}


CASES = {
    "up to an output": (
        [f"%c = convolution(%x, %w, {CONVOLUTION}) : f32[2,8,6,4]", "%r = relu(%c) : f32[2,8,6,4]",
         "%m = mul(%r, %s) : f32[2,8,6,4]", "return %m, %c"],
        {"convolution_0", "r"}),
    "from an operand on": (
        ["%a = mul(%x, %s) : f32[2,8,6,4]", "%b = exp(%a) : f32[2,8,6,4]",
         f"%c = convolution(%b, %w, {CONVOLUTION}) : f32[2,8,6,4]", "%r = relu(%c) : f32[2,8,6,4]", "return %r"],
        {"a", "b", "c"}),
    "through pooling, pad and cat": (
        [f"%c = convolution(%x, %w, {CONVOLUTION}) : f32[2,8,6,4]", f"%p = max_pool2d(%c, {POOL}) : (f32[2,8,3,2], i64[2,8,3,2])",
         "%y = item(%p, index=0) : f32[2,8,3,2]",
         "%q = pad(%y, low=(0, 0, 0, 0), high=(0, 0, 3, 2), interior=(0, 0, 0, 0), value=0.0) : f32[2,8,6,4]",
         "%k = cat(%q, %c, dim=1) : f32[2,16,6,4]", "%e = sum(%k, dim=(0, 1, 2, 3), keepdim=False, dtype=None) : f32[]",
         "return %e"],
        {"c", "p", "y", "q", "k"}),
    "not through a reshape": (
        [f"%c = convolution(%x, %w, {CONVOLUTION}) : f32[2,8,6,4]", "%f = reshape(%c, shape=(2, 2, 4, 24)) : f32[2,2,4,24]",
         "%r = relu(%f) : f32[2,2,4,24]", "%e = sum(%r, dim=(0,), keepdim=False, dtype=None) : f32[2,4,24]", "return %e"],
        {"c"}),
}


@pytest.mark.parametrize("lines, moved", CASES.values(), ids=CASES)
def test_what_lies_with_the_channels_last(lines, moved):
    assert laid_out(graph(*lines)) == moved


def test_graphs_without_such_convolutions_stay():
    g = graph("%r = relu(%x) : f32[2,8,6,4]", f"%c = convolution(%r, %w, {CONVOLUTION}) : f32[2,8,6,4]", "return %c")
    assert channels_last(g, lambda channels, places: places > 48) is g
    g = graph(f"%c = convolution(%x, %w, {CONVOLUTION}) : f32[2,8,6,4]", "%r = relu(%c) : f32[2,8,6,4]",
              f"%d = convolution(%r, %t, {CONVOLUTION}) : f32[2,3,6,4]", "return %d", more=", %t: f32[3,8,3,3]")
    one = {v.name: v for v in channels_last(g, lambda channels, places: channels > 3).values}
    assert one["c"].attrs["channels_last"] and not one["d"].attrs["channels_last"] and not one["r"].type.contiguous
    once = channels_last(g, lambda channels, places: True)
    assert once is not g and channels_last(once, lambda channels, places: True) is once


class Skip(nn.Module):
    """Two scales, joined."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.out = nn.Conv2d(7, 2, 1)

    def forward(self, x):
        h = F.relu(self.norm(self.down(x)))
        h = F.pad(h, (1, 0, 0, 0))[..., 1:]
        return self.out(torch.cat([self.up(h), x], 1)).sigmoid()


NETS = {
    "classifier": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
                                        nn.Conv2d(8, 4, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)),
    "one channel": lambda: nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.Tanh(), nn.Conv2d(1, 4, 3),
                                         nn.Upsample(scale_factor=2)),
    "by channel": lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, dilation=2), nn.GELU(), nn.Conv2d(6, 6, 1), nn.AvgPool2d(2)),
    "single places": lambda: nn.Sequential(nn.Conv2d(3, 8, 8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Softmax(1)),
    "skip": Skip,
}


def layout(t: torch.Tensor) -> list[int]:
    return [step for n, step in zip(t.shape, t.stride()) if n > 1]


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=["channels first", "channels last"])
@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_equal_to_eager_in_values_and_layouts(make, form, monkeypatch):
    monkeypatch.setattr(CBackend, "channels_last", lambda self, channels, places: True)
    torch.manual_seed(0)
    plain = make().to(memory_format=form)
    net = smelt.compile(copy.deepcopy(plain), fullgraph=True)
    for batch in (4, 4, 6, 5):
        x = torch.randn(batch, 3, 8, 8).to(memory_format=form)
        runs = [(n, x.clone().requires_grad_()) for n in (plain, net)]
        expected, found = [n(i) for n, i in runs]
        assert found.stride() == expected.stride()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        g = torch.randn(expected.shape)
        expected.backward(g), found.backward(g)
        torch.testing.assert_close(runs[1][1].grad, runs[0][1].grad, rtol=1e-3, atol=1e-4)
        for p, q in zip(net.parameters(), plain.parameters()):
            assert layout(p.grad) == layout(q.grad)
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4)
            p.grad = q.grad = None
    assert ("channels_last=True" in smelt.show(net)) == (form is torch.contiguous_format) and not smelt.explain(net).fallbacks


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2),
                                    nn.ConvTranspose1d(6, 4, 4, stride=2, padding=1), nn.Conv1d(4, 4, 3, groups=2, dilation=2))

    def forward(self, x):
        return self.layers(x).mean(-1)


def test_rows(monkeypatch):
    monkeypatch.setattr(CBackend, "channels_last", lambda self, channels, places: True)
    torch.manual_seed(0)
    plain = Rows()
    net = smelt.compile(copy.deepcopy(plain), fullgraph=True)
    for batch in (4, 4, 5, 6):
        x = torch.randn(batch, 3, 10)
        runs = [(n, x.clone().requires_grad_()) for n in (plain, net)]
        expected, found = [n(i) for n, i in runs]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        expected.pow(2).sum().backward(), found.pow(2).sum().backward()
        torch.testing.assert_close(runs[1][1].grad, runs[0][1].grad, rtol=1e-3, atol=1e-4)
        for p, q in zip(net.parameters(), plain.parameters()):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4)
            p.grad = q.grad = None
    assert smelt.show(net).count("channels_last=True") == 3 and not smelt.explain(net).fallbacks


def test_gradients_lie_as_what_they_are_of():
    net = smelt.compile(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))
    for _ in range(2):
        x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
        net(x).sum().backward()
        assert x.grad.stride() == x.stride()
    *_, last, end = smelt.show(net, "backward").splitlines()[:-1]
    assert last.split("#")[0].rstrip().endswith("f32[2,3,4,5]{60,1,15,3}") and last.split()[0] in end


def test_double_backward(monkeypatch):
    monkeypatch.setattr(CBackend, "channels_last", lambda self, channels, places: True)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 2)).double().float()
    net = smelt.compile(copy.deepcopy(plain))
    for _ in range(3):
        x = torch.randn(2, 2, 6, 5)
        grads = []
        for n in (plain, net):
            i = x.clone().requires_grad_()
            slope, = torch.autograd.grad(n(i).pow(2).sum(), i, create_graph=True)
            grads.append(torch.autograd.grad(slope.pow(2).sum(), list(n.parameters())))
        torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernel, stride, wide, chosen", [(1, 2, 8, False), (1, 1, 8, True), (3, 2, 8, True), (1, 2, 16, True)])
def test_gradients_of_small_strided_kernels_of_one_place_stay(kernel, stride, wide, chosen):
    """oneDNN wrote past its memory there: the shortcuts of a ResNet of eight channels."""
    size, settings = 6 // stride, f"stride=({stride}, {stride}), padding=({kernel // 2}, {kernel // 2})"
    rest = "dilation=(1, 1), transposed=False, output_padding=(0, 0), groups=1"
    shape = f"{wide}, {wide}, {kernel}, {kernel}"
    strides = f"{wide * kernel * kernel}, {kernel * kernel}, {kernel}, 1"
    g = verify(parse(f"""graph f(%g: f32[2,{wide},{size},{size}], %x: f32[2,{wide},6,6]) {{
%w = convolution_weight_gradient(%g, %x, shape=({shape}), strides=({strides}), {settings}, {rest}) : f32[{shape.replace(' ', '')}]
return %w
}}"""))
    after = channels_last(g, lambda channels, places: True)
    assert [v.attrs.get("channels_last", False) for v in after.values if v.op.images] == [chosen]
