"""Tensors that share memory, and writes to them: arguments, views, results, `out=`, detached and resized tensors."""
import torch
from torch import nn

from .harness import backward, calls, leaf, outcome, program, tensor, whole


def on_fresh(f, *shapes, times=4):
    """Calls on new arguments, which are looked at after each."""
    for _ in range(times):
        arguments = [tensor(*shape) for shape in shapes]
        yield f(*arguments), arguments


@program
def write_to_an_argument(compile):
    yield from on_fresh(compile(lambda x: x.add_(1).mul_(2)), (4,))


@program
def write_to_an_argument_again_and_again(compile):
    x, f = tensor(4), compile(lambda x: x.mul_(2))
    yield from calls(f, x, times=5)


@program
def write_whose_result_is_not_returned(compile):
    @compile
    def f(x, y):
        x += y
        y[0] = 7
    yield from on_fresh(f, (4,), (4,))


@program
def write_through_a_view_of_an_argument(compile):
    @compile
    def f(x):
        x[0].add_(10)
        x.t()[1] *= 2
        x.view(-1)[::2] = 0.5
        x.diagonal().zero_()
        return x.sum()
    yield from on_fresh(f, (3, 3))


@program
def written_with_itself(compile):
    @compile
    def f(x, k):
        for _ in range(k):
            total = x.sum(-1)
        x.copy_(x)
        x[1].copy_(x[1])
        return total
    x = tensor(3, 3)
    for k in (3, 0, 0, 3, 1):
        yield outcome(f, x, k), x, x._version


@program
def view_of_an_argument_written_after_a_read(compile):
    @compile
    def f(x):
        part = x[1:]
        before = part * 2
        x.add_(1)
        return before, part, part + 1
    yield from on_fresh(f, (4, 2))


@program
def view_returned_and_written_by_the_caller(compile):
    f = compile(lambda x: (x[1:], x.t()))
    for _ in range(4):
        x = tensor(3, 3)
        rows, turned = f(x)
        rows.add_(1)
        turned[0] = 0
        yield rows, turned, x


@program
def argument_that_is_a_view(compile):
    f = compile(lambda x: x.add_(1))
    base = tensor(4, 4)
    for part in (base, base[1], base[:, 1], base.t(), base[::2], base.view(-1)[3:9], base[1]):
        yield f(part)


@program
def same_tensor_twice(compile):
    @compile
    def f(a, b):
        a.add_(1)
        return a * b
    for _ in range(3):
        x, y = tensor(4), tensor(4)
        yield f(x, y)
        yield f(x, x)
        yield f(y, x)


@program
def arguments_that_overlap(compile):
    @compile
    def f(a, b):
        a.mul_(2)
        return a + b
    for _ in range(3):
        base = tensor(6)
        yield f(base[:3], base[3:])
        yield f(base[:4], base[2:])
        yield f(base[2:], base[:4])
        yield f(base[:3], base[:3])
        yield f(tensor(3), tensor(3))


@program
def argument_and_its_view(compile):
    @compile
    def f(x, part):
        x.add_(1)
        return part * 2
    for _ in range(3):
        x = tensor(4)
        yield f(x, x[1:3])
        yield f(tensor(4), tensor(2))


@program
def overlapping_elements_of_one_argument(compile):
    f = compile(lambda x: x * 2)
    g = compile(lambda x: x.add_(1))
    for _ in range(3):
        x = tensor(6).as_strided((4, 3), (1, 1))
        yield f(x), outcome(g, x)
        yield outcome(g, tensor(1, 3).expand(4, 3))
        yield outcome(g, tensor(4, 3))


@program
def swap(compile):
    @compile
    def f(a, b):
        kept = a.clone()
        a.copy_(b)
        b.copy_(kept)
    yield from on_fresh(f, (4,), (4,))


@program
def swap_without_a_copy(compile):
    @compile
    def f(x):
        x[0], x[1] = x[1], x[0]
        return x
    yield from on_fresh(f, (2, 3))


@program
def shift_within_a_tensor(compile):
    @compile
    def f(x):
        x[1:] = x[:-1].clone()
        x[:2] += x[2:4]
        return x
    yield from on_fresh(f, (5,))


@program
def out_argument(compile):
    @compile
    def f(x, out):
        torch.add(x, 1, out=out)
        return torch.mul(out, 2, out=out)
    for _ in range(3):
        x, out = tensor(4), torch.zeros(4)
        yield f(x, out)
        yield f(x, x)
        yield f(x, torch.zeros(2, 4)[1])


@program
def out_argument_of_another_size(compile):
    f = compile(lambda x, out: torch.add(x, 1, out=out))
    for _ in range(3):
        yield f(tensor(4), torch.empty(0))
        yield f(tensor(4), torch.empty(4))


@program
def detached(compile):
    @compile
    def f(x):
        y = x.detach()
        y.add_(1)
        return y, x * 2
    yield from on_fresh(f, (4,))


@program
def detached_result_shares_memory(compile):
    f = compile(lambda x: (x, x.detach(), x.view_as(x)))
    for _ in range(4):
        x = leaf(4)
        same, cut, view = f(x)
        with torch.no_grad():
            cut.mul_(2)
        yield same, cut, view


@program
def results_that_share_memory(compile):
    @compile
    def f(x):
        y = x + 1
        return y, y[1:], y.t(), (y.flatten(), y.detach())
    for _ in range(4):
        found = f(tensor(3, 3))
        found[0].mul_(2)
        found[1][0] = 9
        yield found


@program
def one_result_twice(compile):
    @compile
    def f(x):
        y = x * 2
        return y, [y, {"y": y}], x, x
    for _ in range(4):
        found = f(tensor(4))
        found[0].add_(1)
        yield found


@program
def equal_results_that_are_apart(compile):
    @compile
    def f(x):
        return x + 1, x + 1, torch.zeros(4), torch.zeros(4), x.clone(), x.clone()
    for _ in range(4):
        found = f(tensor(4))
        for k, t in enumerate(found):
            t.add_(k)
        yield found


@program
def results_of_calls_are_apart(compile):
    f = compile(lambda x: (x * 2, torch.ones(4)))
    found = [f(tensor(4)) for _ in range(4)]
    for k, (a, b) in enumerate(found):
        a.add_(k)
        b.mul_(k)
    yield found


@program
def expanded_result(compile):
    f = compile(lambda x: ((x + 1).expand(3, 4), x.expand(2, 4), (x + 2).unsqueeze(0).expand(2, 4) + 1))
    yield from on_fresh(f, (4,))


@program
def resize(compile):
    @compile
    def f(x):
        y = x + 1
        y.resize_(2)
        return y
    yield from on_fresh(f, (4,))


@program
def resize_of_an_argument(compile):
    f = compile(lambda x: x.resize_(2, 2).add_(1))
    for shape in ((4,), (4,), (2, 2), (8,)):
        x = tensor(*shape)
        yield f(x)


@program
def memory_set(compile):
    @compile
    def f(x, y):
        x.set_(y)
        return x + 1
    yield from on_fresh(f, (4,), (2,))


@program
def data_replaced(compile):
    @compile
    def f(x, y):
        x.data = y * 2
        return x + 1
    yield from on_fresh(f, (4,), (4,))


@program
def data_written(compile):
    @compile
    def f(x, y):
        x.data.add_(y)
        return x + 1
    yield from on_fresh(f, (4,), (4,))
    for _ in range(3):
        w = leaf(4)
        yield f(w, tensor(4))


@program
def shape_changed_in_place(compile):
    @compile
    def f(x):
        y = x + 1
        y.t_()
        y.unsqueeze_(0)
        return y
    yield from on_fresh(f, (2, 3))


@program
def shape_of_an_argument_changed_in_place(compile):
    f = compile(lambda x: x.t_().add_(1))
    yield from on_fresh(f, (2, 3))


@program
def captured_tensor_written(compile):
    state = tensor(4)

    @compile
    def f(x):
        state.add_(x)
        return state[1:], state * 2
    yield from calls(f, tensor(4), times=4)
    yield f(state)
    yield outcome(f, state[:1])
    yield f(torch.ones(1))
    yield from calls(f, tensor(4))


@program
def written_argument_and_captured_view(compile):
    base = tensor(4)
    part = base[1:]

    @compile
    def f(x):
        x.add_(1)
        return part * 2
    yield from calls(f, tensor(4))
    yield from calls(f, base)
    yield from calls(f, tensor(4))


@program
def exception_between_writes(compile):
    @compile
    def f(x, i):
        x.add_(1)
        y = x[i]
        x.mul_(2)
        return y
    for i in (0, 0, 1, 9, 0, 9, 1):
        x = tensor(4)
        yield outcome(f, x, i)


@program
def exception_of_an_op_between_writes(compile):
    @compile
    def f(x, y):
        x.add_(1)
        x.mul_(y)
        return x
    for shape in ((4,), (4,), (3,), (4,), (3,), (1,), (2, 4)):
        x = tensor(4)
        yield outcome(f, x, tensor(*shape))


@program
def exception_of_an_index_between_writes(compile):
    @compile
    def f(x, i):
        x.add_(1)
        x[0] = x[i].sum()
        return x * 2
    for i in ([0], [1], [2], [9], [1], [9], [3]):
        x = tensor(4)
        yield outcome(f, x, torch.tensor(i))


@program
def write_under_gradient(compile):
    @compile
    def f(x):
        y = x * 2
        y.add_(x)
        y[0] *= 3
        return y
    for _ in range(4):
        x = leaf(4)
        yield backward(f(x))


@program
def write_to_an_input_with_history(compile):
    @compile
    def f(y):
        y.mul_(2)
        return y + 1
    for _ in range(3):
        x = leaf(4)
        y = x * 3
        yield backward(f(y))
        yield outcome(f, x)


@program
def write_to_a_leaf_without_gradient_mode(compile):
    @compile
    def f(w):
        with torch.no_grad():
            w.mul_(0.5)
        return w * 2
    w = leaf(4)
    for _ in range(4):
        w.grad = None
        yield backward(f(w))


@program
def write_to_what_the_backward_needs(compile):
    f = compile(lambda x: x.pow(3))
    for _ in range(3):
        x = leaf(4)
        h = x * 1
        y = f(h)
        h.add_(1)
        yield outcome(backward, y)


@program
def scatter_and_index_writes(compile):
    @compile
    def f(x, i):
        x.index_add_(0, i, torch.ones(3))
        x.scatter_(0, i, 5.0)
        x.index_fill_(0, i[:1], -1)
        x.masked_fill_(x > 3, 0)
        x[i] += 1
        return x
    for i in ((0, 1, 2), (0, 1, 2), (3, 3, 1), (2, 2, 2)):
        x = tensor(4)
        yield f(x, torch.tensor(i))


@program
def copies_between_dtypes_and_shapes(compile):
    @compile
    def f(x, y):
        x.copy_(y)
        y.fill_(x.sum().to(y.dtype))
        return x
    for dtype in (torch.float64, torch.int64, torch.bfloat16):
        for shape in ((4,), (1,), (2, 4)):
            x, y = tensor(2, 4), tensor(*shape, dtype=dtype)
            try:
                yield f(x, y)
            except RuntimeError as error:
                yield type(error)


@program
def lists_of_tensors_written(compile):
    @compile
    def f(xs, y):
        torch._foreach_add_(xs, 1)
        for x in xs:
            x.mul_(y)
        return xs[0] + xs[-1]
    for _ in range(4):
        xs = [tensor(4), tensor(4), tensor(1)]
        yield f(xs, tensor(4)[:1])
    yield f([xs[0], xs[1], xs[0]], tensor(1))


@program
def real_and_imaginary_parts(compile):
    @compile
    def f(z):
        z.real.add_(1)
        return torch.view_as_real(z), z.imag * 2
    for _ in range(4):
        z = torch.complex(tensor(4), tensor(4) + 1)
        yield f(z)
        yield outcome(f, z.conj())


@program
def other_dtype_of_the_same_memory(compile):
    @compile
    def f(x):
        bits = x.view(torch.int32)
        return bits + 1, bits, x * 2
    yield from on_fresh(f, (4,))


@program
def chunks_written(compile):
    @compile
    def f(x):
        for k, part in enumerate(x.chunk(2)):
            part.add_(k)
        a, b = x.unbind(1)
        a.mul_(b)
        return a, b
    yield from on_fresh(f, (4, 2))


@program
def one_of_several_views_written_where_autograd_does_not_see_it(compile):
    @compile
    def f(x):
        first, rest = (x * 2).split([1, 3])
        first.detach().mul_(3)
        count = (rest > 0).sum()
        try:
            return count, rest * 2
        except RuntimeError:
            return count
    for _ in range(3):
        yield f(tensor(4, 2).requires_grad_())


@program
def noncontiguous_argument_written(compile):
    f = compile(lambda x: x.mul_(2).sum())
    for _ in range(2):
        for x in (tensor(4, 4), tensor(4, 4).t(), tensor(4, 4)[::2], tensor(4, 4)[:, 1:3], tensor(4, 4).flip(0)):
            yield f(x)


def training(f, exact=False):
    """Register a program: f of a network, of another one and of a tensor, and what it leaves in them."""
    def body(compile):
        net, other, compiled = nn.Linear(3, 2), nn.Linear(3, 2), compile(f)
        before = net.weight.data
        for k in range(4):
            x = tensor(2, 3) + k / 4
            result = outcome(compiled, net, other, x)
            yield result, x, before, [*net.parameters(), *other.parameters()]
            if isinstance(result, torch.Tensor) and result.requires_grad and not result.is_leaf:
                yield outcome(lambda: result.sum().backward()), [p.grad for p in net.parameters()]
            yield net(x), other(x)
    body.__name__ = f.__name__
    program(body, exact=exact)
    return f


@training
def data_of_an_average(net, other, x):
    loss = (net(x) - other(x).detach()).square().mean()
    for p, q in zip(net.parameters(), other.parameters()):
        q.data = q.data * 0.9 + p.data * 0.1
    return loss


@training
def data_by_the_gradient(net, other, x):
    for _ in range(2):
        net.zero_grad()
        net(x).square().sum().backward()
        for p in net.parameters():
            p.data = p - 0.1 * p.grad
    return net(x)


@training
def data_of_a_leaf_made(net, other, x):
    delta = torch.zeros_like(x, requires_grad=True)
    for _ in range(2):
        net(x * delta + delta).square().sum().backward()
        delta.data = (delta + 0.1 * delta.grad.sign()).clamp(-0.2, 0.2)
        delta.grad.zero_()
    return delta.detach()


@training
def data_of_an_argument(net, other, x):
    x.data = x * 2
    return x[0] + net(x).sum()


@training
def data_that_a_gradient_needs(net, other, x):
    loss = net(net(x) @ net.weight).square().sum()
    net.weight.data = net.weight.data * 2
    loss.backward()
    return loss.detach()


@training
def data_written_to_that_a_gradient_needs(net, other, x):
    loss = net(net(x) @ net.weight).square().sum()
    net.weight.data.mul_(2)
    loss.backward()
    return loss.detach()


@training
def data_that_is_known_elsewhere(net, other, x):
    data = net.weight.data * 2
    net.weight.data = data
    data.mul_(2)
    return net(x)


@training
def data_of_another_parameter(net, other, x):
    other.weight.data = net.weight.data
    return other(x)


@training
def data_and_what_it_was(net, other, x):
    old = net.weight.data
    net.weight.data = old * 2
    return old * 3 + net.weight[0]


@training
def data_that_was_written_to(net, other, x):
    old = net.weight.data
    net.weight.data = old * 2
    old.mul_(2)
    return net(x)


@training
def data_of_another_form(net, other, x):
    x.data = x.data[:1]
    return x.sum()


@training
def data_written_to_afterwards(net, other, x):
    net.weight.data = net.weight.data * 2
    with torch.no_grad():
        net.weight.add_(1)
    net.weight.data.mul_(0.5)
    return net(x)


@training
def data_of_what_was_written_to(net, other, x):
    before = net.weight.data
    with torch.no_grad():
        net.weight.add_(1)
    net.weight.data = net.weight.data * 2
    return net(x) * before.sum()


@training
def data_put_back_after_a_step_uphill(net, other, x):
    kept = [p.data.clone() for p in net.parameters()]
    net(x).square().sum().backward()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(p.grad / 4)
    net.zero_grad()
    net(x).square().sum().backward()
    for p, old in zip(net.parameters(), kept):
        p.data = old
        p.data.sub_(p.grad / 8)
    return kept[0] * 2


@training
def data_given_away(net, other, x):
    data = net.weight.data * 2
    net.weight.data = data
    return data, data[0]


@training
def data_with_a_gradient_of_its_own(net, other, x):
    data = net.weight * 2
    net.weight.data = data
    return data * 2


def kept_data(use):
    """A program whose function keeps what it replaces the memory of a parameter by."""
    def body(compile):
        w, kept = nn.Parameter(tensor(4)), {}
        first = w.data
        f = compile(lambda x: use(w, kept, x))
        for k in range(5):
            yield outcome(f, tensor(4) + k % 2), w, kept
            with torch.no_grad():
                w.add_(1)
            yield w, w.grad, kept, first
    body.__name__ = f"data_kept_{use.__name__}"
    body.__module__ = __name__
    program(body)
    return use


@kept_data
def and_written_to(w, kept, x):
    kept["old"] = w.data.clone()
    with torch.no_grad():
        w.add_(x)
    (w ** 2).sum().backward()
    w.data = kept["old"]
    with torch.no_grad():
        w.sub_(w.grad)
    return w.detach() * 2


@kept_data
def in_part(w, kept, x):
    data = w.data.clone()
    kept["part"] = data[1:]
    w.data = data
    with torch.no_grad():
        w.add_(x)
    return data + 1


@kept_data
def from_before_it_was_written_to(w, kept, x):
    kept["before"] = w.data
    with torch.no_grad():
        w.add_(x)
    w.data = x * 2
    return w.detach() * 3


@training
def data_on_a_branch(net, other, x):
    net.weight.data = net.weight.data * 1.5
    if x.sum() > 0:
        net.bias.data = net.bias.data + 1
    return net(x)


@training
def leaves_written_to_through_views(net, other, x):
    with torch.no_grad():
        net.weight[0] = 1
        net.weight.view(-1)[3:5].zero_()
    net.bias.data.clamp_(-0.1, 0.1)
    net.bias.detach()[0] = 2
    net.zero_grad()
    net(x).square().sum().backward()
    return net(x)


@training
def leaves_made_written_to_through_views(net, other, x):
    leaf = x.clone().detach().requires_grad_()
    flat, data = leaf.view(-1), leaf.data
    for _ in range(2):
        g, = torch.autograd.grad(net(leaf * leaf).sum() + (flat ** 3).sum(), leaf)
        with torch.no_grad():
            leaf += 0.1 * g
            flat[0] = 3
        data[1, 1] = 2
    return leaf.detach(), data, flat.detach()


@training
def leaves_cut_from_what_is_used_later(net, other, x):
    h = net(x)
    leaf = h.detach().requires_grad_()
    (leaf @ other.weight).square().sum().backward()
    h.backward(leaf.grad)
    return h.detach()


def complex_tensor(*shape):
    return torch.complex(tensor(*shape), tensor(*shape).flip(0))


@program(exact=False)
def conjugates(compile):
    functions = [compile(f) for f in (
        lambda z: z * z.conj() + z.mH, lambda z: (z.conj().imag + 1, z.conj().real),
        lambda z: torch.einsum("ij,kj->ik", z, z.conj()),
        lambda z: torch.fft.ifft(torch.fft.fft(z) * z.conj()).real, lambda z: z * 2 if z.conj().imag.sum() > 0 else z.conj() * 3,
        lambda z: (z.conj().resolve_conj(), z.conj().is_conj()), lambda z: z[:, 0].conj() * 2)]
    for k in range(4):
        yield [outcome(f, complex_tensor(3, 3) * (1 - k)) for f in functions]


def conjugate_family(z):
    return z, z.conj(), z[0].conj(), z.mH, z.conj().conj()


def conjugate_written_to(z):
    conjugate = z.conj()
    z.mul_(1j)
    return conjugate * 1


def written_to_through_conjugate(z):
    z.conj().mul_(2j)
    return z


@program
def conjugates_that_share_memory(compile):
    functions = [compile(f) for f in (
        lambda z: z.conj(), lambda z: (z * 2).conj(), lambda z: conjugate_family(z * 2), lambda z: z.conj().imag,
        lambda z: (z.mul_(2j), z.conj() * 1), conjugate_written_to, lambda z: written_to_through_conjugate(z * 1))]
    for _ in range(3):
        for f in functions:
            z = complex_tensor(3, 3)
            results = f(z)
            z += 1
            yield results, z
            for r in results if isinstance(results, tuple) else (results,):
                yield r.is_conj(), r.is_neg(), r.mul_(2), results, z


@program(exact=False)
def conjugates_and_gradients(compile):
    weight = complex_tensor(3, 3).requires_grad_()
    functions = [compile(f) for f in (
        lambda z: (weight * z.conj() + weight @ z.mH).abs().sum(), lambda z: (weight * weight.conj() * z).abs().sum())]
    for _ in range(4):
        for f in functions:
            weight.grad = None
            f(complex_tensor(3, 3)).backward()
            yield weight.grad


@program(exact=False)
def conjugates_of_many_sizes(compile):
    f = compile(lambda z: (z * z.conj(), (z * 2).conj()))
    for n in range(2, 7):
        yield f(complex_tensor(n, 3))


@training
def results_written_to_out_of_sight(net, other, x):
    y = net(x)
    first = y[0]
    with torch.no_grad():
        y.view(-1)[0] = 7
        first.mul_(2)
    y.detach().clamp_(min=0)
    return y.square() + first


@training
def results_that_a_gradient_needs_written_to(net, other, x):
    y = net(x).exp()
    y.data.mul_(2)
    return y


@training
def rounded_with_the_gradient_of_what_was(net, other, x):
    y = net(x)
    y.data.copy_(y.data.round())
    net.zero_grad()
    (y * y).sum().backward()
    return y.detach()


@program
def views_of_what_an_operand_with_gaps_gives(compile):
    def f(x):
        y = x + 1
        return y.reshape(2, -1).unfold(-1, 2, 1), y.sum()
    compiled = compile(f)
    for x in (tensor(4, 6, 2)[..., 0], tensor(4, 6), tensor(6, 4).t(), tensor(4, 6, 2)[..., 0]):
        yield from calls(compiled, x)


class SpectralConvolution(nn.Module):
    """A layer of a Fourier neural operator: the lowest frequencies, each with weights of its own."""

    def __init__(self, channels, modes):
        super().__init__()
        self.modes = modes
        self.low = nn.Parameter(torch.rand(channels, channels, modes, modes, dtype=torch.cfloat))
        self.high = nn.Parameter(torch.rand(channels, channels, modes, modes, dtype=torch.cfloat))

    def forward(self, x):
        m, spectrum = self.modes, torch.fft.rfft2(x)
        out = torch.zeros(*spectrum.shape, dtype=torch.cfloat)
        out[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :m, :m], self.low)
        out[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, -m:, :m], self.high)
        return torch.fft.irfft2(out, s=x.shape[-2:])


@program(exact=False)
def frequencies_written(compile):
    net = SpectralConvolution(2, 3)
    f = compile(net)
    for n in (2, 2, 2, 3, 4):
        yield backward(f(tensor(n, 2, 8, 8))), [p.grad for p in net.parameters()]


@program(exact=False)
def complex_rows_and_diagonals_written(compile):
    kept = torch.zeros(4, 4, dtype=torch.cdouble)

    @compile
    def f(x, k):
        y = torch.complex(x, x + 1)
        kept[1] = y[0] * k
        kept.diagonal().add_(y[1])
        y[:, 2:][0] *= 2j
        return y.abs().sum(), y
    for k in (1, 2, 3, 4):
        yield f(tensor(4, 4, dtype=torch.float64), k), kept


@program(exact=False)
def parts_of_complex_tensors_written(compile):
    kept = torch.zeros(4, 3, dtype=torch.cfloat)
    turned = torch.zeros(3, 4, dtype=torch.cfloat).t()

    @compile
    def f(x, k):
        y = torch.complex(x, x + 1)
        torch.view_as_real(kept).add_(k)
        kept.real[1:] = x[1:]
        turned.imag.copy_(x * k)
        torch.view_as_real(y)[..., 0].sub_(1)
        return y, y.abs().sum()

    @compile
    def g(x, k):
        y = torch.complex(x, x + 1)
        y.real *= k
        return y.abs().sum(), torch.view_as_real(y).as_strided((4,), (2,), 1) + 1
    for k in (1, 2, 3, 4):
        yield f(tensor(4, 3) * k, k), kept, turned
        yield g(tensor(4, 3), k)
        yield g(leaf(4, 3), k)[0].backward()


@program(exact=False)
def complex_parameters_trained(compile):
    """As the weights of layers that work on Fourier transforms."""
    weight = nn.Parameter(torch.complex(tensor(3, 3), tensor(3, 3).t()) * 0.1)
    for kind in (torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW):
        optimizer = kind([weight], lr=0.01)

        @compile
        def step(x):
            found = torch.fft.rfft(x)
            out = torch.zeros_like(found)
            out[:, :3] = torch.einsum("bi,io->bo", found[:, :3], weight)
            loss = torch.fft.irfft(out, n=x.shape[-1]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()
        for _ in range(4):
            yield step(tensor(2, 8))


@program
def parts_of_one_memory_written_to(compile):
    """Parameters that a vector was cut into lie behind one another: a write to one shows in no other, until they overlap."""
    vector = tensor(12) / 4
    net = nn.Linear(3, 3)
    nn.utils.vector_to_parameters(vector, net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.125)

    @compile
    def step(x):
        optimizer.zero_grad()
        net(x).sum().backward()
        optimizer.step()

    @compile
    def shift(a, b):
        a.add_(1)
        b.mul_(2)
        return a + b
    for n in range(4):
        yield step(tensor(2, 3) + n), vector
    memory = tensor(10)

    def part(start):
        held = torch.empty(0)
        held.data = memory[start:start + 4]
        return held
    for starts in ((0, 4), (0, 5), (4, 0), (0, 6), (0, 2), (3, 0), (0, 0), (1, 5)):
        yield shift(*map(part, starts)), memory
    rows = tensor(2, 4)
    for _ in range(3):
        yield shift(rows[0], rows[1]), rows, rows._version


@program
def tensors_swapped_once_they_were_used(compile):
    """torch refuses to swap tensors that have weak references. Some are arguments, some state, some made by the run."""
    layer = whole(nn.Linear(4, 4))

    @compile
    def arguments(a, b, said):
        if said:
            print("said")
        y = a * 2 + b
        torch.utils.swap_tensors(a, b)
        return y, a - b, a[1:]

    @compile
    def parameters(x):
        y = layer(x)
        torch.utils.swap_tensors(layer.weight, nn.Parameter(layer.weight.detach() * 2))
        return layer(x) + y
    for said in (False, False, True, True):
        a, b = tensor(4), tensor(2, 2) * 3
        yield outcome(arguments, a, b, said), outcome(arguments, tensor(3), tensor(3) * 2, said)
        yield outcome(parameters, tensor(3, 4)), layer
