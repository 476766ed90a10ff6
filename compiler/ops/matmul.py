"""Matrix products."""
from __future__ import annotations

import torch

from ..ir import Value
from ..op import Op, broadcast, register
from ..scalar import arithmetic_dtype
from .rules import is_cut
from .views import sum_to


def _matmul_type(inputs, attrs):
    x, y = inputs
    if x.rank < 2 or y.rank < 2 or x.shape[-1] != y.shape[-2]:
        raise ValueError(f"{tuple(x.shape)} and {tuple(y.shape)} do not multiply as matrices")
    if x.dtype != y.dtype:
        raise ValueError(f"a product of {x.dtype} and {y.dtype}")
    return x.type.like((*broadcast([x.shape[:-2], y.shape[:-2]]), x.shape[-2], y.shape[-1]))


def _swapped(rank: int) -> tuple[int, ...]:
    return (*range(rank - 2), rank - 1, rank - 2)


def transposed(b, x: Value) -> Value:
    """The last two dimensions swapped."""
    return b.permute(x, dims=_swapped(x.rank))


def _matmul_gradient(b, v, g):
    x, y = v.inputs
    return sum_to(b, _product(b, g, transposed(b, y), x), x), sum_to(b, _product(b, transposed(b, x), g, y), y)


def _product(b, x, y, operand):
    """x times y, the gradient of an operand. Where that is itself a transpose, so is the product: what the operand was
    transposed from then gets its gradient as it lies in memory."""
    if operand.op.name != "permute" or tuple(operand.attrs["dims"]) != _swapped(operand.rank):
        return b.matmul(x, y)
    return transposed(b, b.matmul(transposed(b, y), transposed(b, x)))


def _column(b, y):
    return b.reshape(y, shape=(*y.shape, 1))


def _import_mv(b, x, y):
    return b.reshape(b.matmul(x, _column(b, y)), shape=(x.shape[0],))


def _import_dot(b, x, y):
    return b.reshape(b.matmul(b.reshape(x, shape=(1, *x.shape)), _column(b, y)), shape=())


def _import_matmul(b, x, y, out_dtype=None):
    return NotImplemented if out_dtype is not None else b.matmul(x, y)


_PAIRS = (((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 1, 3, 4), (6, 4, 2)), ((3, 0), (0, 2)))

register(Op("matmul", "contract", "a[..., m, k] times b[..., k, n], batches broadcast; float32 sums for float16/bfloat16.",
            _matmul_type, meaning=torch.matmul, gradient=_matmul_gradient,
            aten={"mm": _import_matmul, "bmm": _import_matmul, "mv": _import_mv, "dot": _import_dot},
            samples=lambda: [((torch.randn(x), torch.randn(y)), {}) for x, y in _PAIRS]))


# beta * input + alpha * (x @ y)

def _scaled_sum(b, base, product, beta, alpha):
    """The product by alpha plus the base by beta; with beta == 0 the base is not read, so its NaNs do not count."""
    if alpha != 1:
        product = b.mul(product, alpha)
    if beta == 0:
        return product
    return b.add(base if beta == 1 else b.mul(base, beta), product)


def _addmm_type(inputs, attrs):
    base, product = inputs[0], _matmul_type(inputs[1:], {})
    if broadcast([base.shape, product.shape]) != product.shape:
        raise ValueError(f"{tuple(base.shape)} added to {product.shape}")
    return product


def _addmm_gradient(b, v, g):
    base, x, y = v.inputs
    beta, alpha = v.attrs["beta"], v.attrs["alpha"]
    scaled = g if alpha == 1 else b.mul(g, alpha)
    return (sum_to(b, g if beta == 1 else b.mul(g, beta), base),
            _product(b, scaled, transposed(b, y), x), _product(b, transposed(b, x), scaled, y))


def _import_addmm(b, base, x, y, beta=1, alpha=1):
    """In float32 and wider, a product and a sum, which fuse. Narrower floats round once, so they stay one call."""
    if arithmetic_dtype(x.dtype) != x.dtype:
        return b.addmm(base, x, y, beta=beta, alpha=alpha)
    return _scaled_sum(b, base, b.matmul(x, y), beta, alpha)


def _import_addmv(b, base, x, y, beta=1, alpha=1):
    base = _column(b, base) if base.rank else base
    return b.reshape(_import_addmm(b, base, x, _column(b, y), beta, alpha), shape=(x.shape[0],))


def _import_addbmm(b, base, x, y, beta=1, alpha=1):
    """The sum of a batch of products is one product with the batch as part of the inner dimension."""
    batch, rows, inner = x.shape
    flat = b.reshape(b.permute(x, dims=(1, 0, 2)), shape=(rows, batch * inner))
    return _import_addmm(b, base, flat, b.reshape(y, shape=(batch * inner, y.shape[2])), beta, alpha)


def _uncut(convert):
    """The import, but for factors that torch cuts down."""
    def convert_uncut(b, base, x, y, beta=1, alpha=1):
        return NotImplemented if is_cut(base.dtype, beta, alpha) else convert(b, base, x, y, beta, alpha)
    return convert_uncut


def _addmm_meaning(base, x, y, *, beta, alpha):
    return (torch.addmm if x.dim() == 2 else torch.baddbmm)(base, x, y, beta=beta, alpha=alpha)


register(Op("addmm", "opaque", "beta * input + alpha * (a @ b), rounded once, on matrices or a batch of them.",
            _addmm_type, meaning=_addmm_meaning, gradient=_addmm_gradient,
            aten={name: _uncut(convert) for name, convert in (("addmm", _import_addmm), ("baddbmm", _import_addmm),
                                                              ("addmv", _import_addmv), ("addbmm", _import_addbmm))},
            samples=lambda: [((torch.randn(5), torch.randn(3, 4), torch.randn(4, 5)), {"beta": 1, "alpha": 1}),
                             ((torch.randn(2, 3, 5), torch.randn(2, 3, 4), torch.randn(2, 4, 5)), {"beta": 0.5, "alpha": -2})]))
