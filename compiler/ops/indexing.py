"""Ops that read or write at places that integer tensors say.

A record of kind "gather" has `index(v, coordinates, read) -> coordinates of inputs[0]`, where

    read(k, coordinates, size, wrap=False, error=(IndexError, "...")) -> Expr

stands for the integer that input k holds at `coordinates`, used as an index into a dimension of `size`. Whoever calls
the rule supplies `read`, and sees to it that negative indices count from the end if `wrap`, and that an index outside
the dimension raises `error`.

The writing ops (scatter, index_put, ...) and the sums that gradients of the reading ones need are torch's own calls.
"""
from __future__ import annotations

import torch

from ..dims import equal, expr
from ..op import Op, broadcast, register, same_shape
from .views import sum_to, zeros

_INTEGERS = (torch.int64, torch.int32)
_OUT_OF_RANGE = (IndexError, "index out of range in self")
_TARGET = (IndexError, "Target is out of bounds.")


def _out_of_bounds(error, dim, size):
    return error, f"index is out of bounds for dimension {dim} with size {size}"


def _places(v, k=1):
    """Samples' and rules' check that an input holds integers."""
    if v.dtype not in _INTEGERS:
        raise ValueError(f"input {k} must hold int64 or int32 indices, not {v.dtype}")
    return v


# gather: one index per element of the result

def _gather_type(inputs, a):
    x, index = inputs[0], _places(inputs[1])
    if x.rank != index.rank:
        raise ValueError(f"the index has {index.rank} dimensions, the input {x.rank}")
    return x.type.like(index.shape)


def _gather_index(v, coordinates, read):
    dim, (x, _) = v.attrs["dim"], v.inputs
    place = read(1, coordinates, x.shape[dim], error=_out_of_bounds(RuntimeError, dim, x.shape[dim]))
    return (*coordinates[:dim], place, *coordinates[dim + 1:])


def _gather_gradient(b, v, g):
    x, index = v.inputs
    return b.scatter_add(zeros(b, x.type), index, g, dim=v.attrs["dim"]), None


def _import_gather(b, x, dim, index, sparse_grad=False):
    if not x.rank or not index.rank or sparse_grad or index.dtype not in _INTEGERS:  # an empty index may be of any dtype
        return NotImplemented
    return b.gather(x, index, dim=dim % x.rank)


def _index_samples():
    return torch.tensor([[0, 2, 1], [3, 3, 0]])


register(Op("gather", "gather", "x at the result's own coordinates, but for `dim`, where the index says.", _gather_type,
            meaning=lambda x, index, *, dim: x.gather(dim, index.long()), index=_gather_index, gradient=_gather_gradient,
            aten={"gather": _import_gather},
            samples=lambda: [((torch.randn(2, 4), _index_samples()), {"dim": 1}),
                             ((torch.randn(4, 5), _index_samples()), {"dim": 0})], raises=True))


def _pick_type(inputs, a):
    x, target, dim = inputs[0], _places(inputs[1]), a["dim"]
    if target.shape != (*x.shape[:dim], *x.shape[dim + 1:]):
        raise ValueError(f"targets {tuple(target.shape)} for dimension {dim} of {tuple(x.shape)}")
    return x.type.like(target.shape)


def _pick_index(v, coordinates, read):
    dim = v.attrs["dim"]
    return (*coordinates[:dim], read(1, coordinates, v.inputs[0].shape[dim], error=_TARGET), *coordinates[dim:])


def _pick_gradient(b, v, g):
    x, target, dim = v.inputs[0], v.inputs[1], v.attrs["dim"]
    return b.where(picked(b, target, x.shape, dim), along(b, g, x.shape, dim), zeros(b, x.type.like(()))), None


def along(b, x, shape, dim):
    """`x`, which lacks dimension `dim` of `shape`, repeated along it."""
    return b.expand(b.reshape(x, shape=(*shape[:dim], 1, *shape[dim + 1:])), shape=shape)


def picked(b, target, shape, dim):
    """A bool mask of `shape`, true where the index along `dim` is the target's."""
    classes = b.iota(size=shape[dim], start=0, step=1, dtype=torch.int64, device=target.type.device)
    return b.eq(along(b, target, shape, dim), b.reshape(classes, shape=(shape[dim], *(1 for _ in shape[dim + 1:]))))


register(Op("pick", "gather", "One element of each row along `dim`: the target's.", _pick_type,
            meaning=lambda x, target, *, dim: x.gather(dim, target.long().unsqueeze(dim)).squeeze(dim),
            index=_pick_index, gradient=_pick_gradient,
            samples=lambda: [((torch.randn(3, 4), torch.tensor([3, 0, 2])), {"dim": 1}),
                             ((torch.randn(2, 4, 3), _index_samples()), {"dim": 1})], raises=True))


# index_select and embedding: one index per slice

def _index_select_type(inputs, a):
    x, index, dim = inputs[0], _places(inputs[1]), a["dim"]
    return x.type.like((*x.shape[:dim], *index.shape, *x.shape[dim + 1:]))


def _index_select_index(v, coordinates, read):
    dim, (x, index) = v.attrs["dim"], v.inputs
    end = dim + index.rank
    return (*coordinates[:dim], read(1, coordinates[dim:end], x.shape[dim], error=_OUT_OF_RANGE), *coordinates[end:])


def _index_select_gradient(b, v, g):
    (x, index), dim = v.inputs, v.attrs["dim"]
    return b.index_add(zeros(b, x.type), index, g, dim=dim), None


def _import_index_select(b, x, dim, index):
    if not x.rank or index.rank != 1:
        return NotImplemented
    return b.index_select(x, index, dim=dim % x.rank)


register(Op("index_select", "gather", "The slices of one dimension that a 1-dimensional index names.", _index_select_type,
            meaning=lambda x, index, *, dim: x.index_select(dim, index), index=_index_select_index,
            gradient=_index_select_gradient, aten={"index_select": _import_index_select},
            samples=lambda: [((torch.randn(4, 5), torch.tensor([3, 0, 3])), {"dim": d}) for d in (0, 1)], raises=True))


def _embedding_index(v, coordinates, read):
    weight, index = v.inputs
    return (read(1, coordinates[:index.rank], weight.shape[0], error=_OUT_OF_RANGE), *coordinates[index.rank:])


def _embedding_gradient(b, v, g):
    weight, index = v.inputs
    return b.embedding_backward(g, index, rows=weight.shape[0], **v.attrs), None


def _import_embedding(b, weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    if sparse:
        return NotImplemented
    return b.embedding(weight, indices, padding=padding_idx, by_frequency=scale_grad_by_freq)


_PLAIN = {"padding": -1, "by_frequency": False}

register(Op("embedding", "gather", "A row of the weight for each index; the gradient skips row `padding`.",
            lambda inputs, a: _index_select_type(inputs, {"dim": 0}),
            meaning=lambda weight, index, *, padding, by_frequency:
            torch.ops.aten.embedding(weight, index, padding, by_frequency),
            index=_embedding_index, gradient=_embedding_gradient, aten={"embedding": _import_embedding},
            samples=lambda: [((torch.randn(4, 5), _index_samples()), _PLAIN), ((torch.randn(4, 5), torch.tensor(2)), _PLAIN)],
            raises=True))


def _embedding_backward_gradient(b, v, g):
    """Each row's gradient, but none for the padding."""
    index, padding = v.inputs[1], v.attrs["padding"]
    rows = b.embedding(g, index, **_PLAIN)
    if padding >= 0:
        skipped = b.reshape(b.eq(index, padding), shape=(*index.shape, 1))
        rows = b.where(skipped, zeros(b, rows.type.like(())), rows)
    return rows, None


def _embedding_backward_type(inputs, a):
    g, index = inputs[0], _places(inputs[1])
    if g.shape[:-1] != index.shape:
        raise ValueError(f"gradients {tuple(g.shape)} for indices {tuple(index.shape)}")
    return g.type.like((a["rows"], g.shape[-1]))


def _import_embedding_backward(b, g, indices, num_weights, padding_idx, scale_grad_by_freq):
    return b.embedding_backward(g, indices, rows=num_weights, padding=padding_idx, by_frequency=scale_grad_by_freq)


register(Op("embedding_backward", "opaque", "The sum of each index's rows of g: the gradient of an embedding's weight.",
            _embedding_backward_type,
            meaning=lambda g, index, *, rows, padding, by_frequency:
            torch.ops.aten.embedding_dense_backward(g, index, rows, padding, by_frequency),
            gradient=_embedding_backward_gradient, aten={"embedding_dense_backward": _import_embedding_backward},
            samples=lambda: [((torch.randn(2, 3, 5), _index_samples()), {"rows": 4, "padding": p, "by_frequency": False})
                             for p in (-1, 3)]))


# index: advanced indexing by integer tensors that broadcast against each other

def _index_layout(inputs, dims):
    """(the indices' common shape, where it stands in the result): in place of adjacent dims, else in front."""
    common = broadcast([_places(i, k).shape for k, i in enumerate(inputs[1:], 1)])
    adjacent = all(n == m + 1 for m, n in zip(dims, dims[1:]))
    return common, dims[0] if adjacent else 0


def _index_type(inputs, a):
    x, dims = inputs[0], a["dims"]
    common, at = _index_layout(inputs, dims)
    rest = [n for d, n in enumerate(x.shape) if d not in dims]
    return x.type.like((*rest[:at], *common, *rest[at:]))


def _index_index(v, coordinates, read):
    x, dims = v.inputs[0], v.attrs["dims"]
    common, at = _index_layout(v.inputs, dims)
    shared, rest = coordinates[at:at + len(common)], [*coordinates[:at], *coordinates[at + len(common):]]
    places = {}
    for k, (dim, index) in enumerate(zip(dims, v.inputs[1:]), 1):
        own = tuple(expr(0) if n == 1 else c for n, c in zip(index.shape, shared[len(common) - index.rank:]))
        places[dim] = read(k, own, x.shape[dim], wrap=True, error=_out_of_bounds(IndexError, dim, x.shape[dim]))
    return tuple(places[d] if d in places else rest.pop(0) for d in range(x.rank))


def _per_dim(indices, dims):
    """[index or None] per dimension up to the last indexed, as torch takes them."""
    found = dict(zip(dims, indices))
    return [found.get(d) for d in range(max(dims) + 1)]


def _index_gradient(b, v, g):
    x, *indices = v.inputs
    return b.index_put(zeros(b, x.type), g, *indices, dims=v.attrs["dims"], accumulate=True), *(None for _ in indices)


def _integer_indices(indices):
    """{dim: index} of an index list if all of them are integers, else None."""
    found = {d: i for d, i in enumerate(indices) if i is not None}
    return found if found and all(i.dtype in _INTEGERS for i in found.values()) else None


def _import_index(b, x, indices):
    found = _integer_indices(indices)
    return NotImplemented if found is None else b.index(x, *found.values(), dims=tuple(found))


register(Op("index", "gather", "Advanced indexing: x[..., i, j, ...] by integer tensors at dimensions `dims`.", _index_type,
            meaning=lambda x, *indices, dims: torch.ops.aten.index(x, _per_dim(indices, dims)),
            index=_index_index, gradient=_index_gradient,
            aten={"index.Tensor": _import_index, "_unsafe_index.Tensor": _import_index},
            samples=lambda: [((torch.randn(4, 5), _index_samples()), {"dims": (0,)}),
                             ((torch.randn(4, 2, 5), _index_samples(), torch.tensor([0, -1, 4])), {"dims": (0, 2)}),
                             ((torch.randn(2, 4, 5), _index_samples(), torch.tensor([[-1], [4]])), {"dims": (1, 2)})],
            raises=True))


# Writing

def _index_put_type(inputs, a):
    x, values, *indices = inputs
    places = _index_type((x, *indices), a).shape
    if broadcast([values.shape, places]) != places:
        raise ValueError(f"values {tuple(values.shape)} put in {places} places")
    return x.type.like(x.shape)


def _index_put_gradient(b, v, g):
    (x, values, *indices), a = v.inputs, v.attrs
    kept = g if a["accumulate"] else b.index_put(g, zeros(b, values.type), *indices, **a)
    return kept, sum_to(b, b.index(g, *indices, dims=a["dims"]), values), *(None for _ in indices)


def _import_index_put(b, x, indices, values, accumulate=False):
    mask, *others = [i for i in indices if i is not None]
    if mask.dtype == torch.bool and not others and indices[0] is mask and equal(values.type.numel, 1) and not accumulate:
        shape = (*mask.shape, *(1 for _ in x.shape[mask.rank:]))
        return b.where(b.reshape(mask, shape=shape), b.reshape(values, shape=()), x)
    found = _integer_indices(indices)
    return NotImplemented if found is None else b.index_put(x, values, *found.values(), dims=tuple(found), accumulate=accumulate)


register(Op("index_put", "opaque", "x with values put (or added) where the indices say.",
            _index_put_type,
            meaning=lambda x, values, *indices, dims, accumulate:
            torch.ops.aten.index_put(x, _per_dim(indices, dims), values, accumulate),
            gradient=_index_put_gradient, aten={"index_put": _import_index_put, "_unsafe_index_put": _import_index_put},
            samples=lambda: [((torch.randn(4, 5), torch.randn(2, 5), torch.tensor([1, 3])), {"dims": (0,), "accumulate": False}),
                             ((torch.randn(4, 5), torch.randn(5), torch.tensor([1, 1])), {"dims": (0,), "accumulate": True})]))


def _scatter_type(inputs, a):
    x, index, src = inputs
    same_shape(_places(index), src)
    return x.type.like(x.shape)


def _index_add_type(inputs, a):
    x, index, src = inputs
    if src.shape != (*x.shape[:a["dim"]], *_places(index).shape, *x.shape[a["dim"] + 1:]):
        raise ValueError(f"{tuple(src.shape)} added to {tuple(x.shape)} at {tuple(index.shape)} places of dimension {a['dim']}")
    return x.type.like(x.shape)


def _scatter_gradient(b, v, g):
    index, src, dim = v.inputs[1], v.inputs[2], v.attrs["dim"]
    return b.scatter(g, index, zeros(b, src.type), dim=dim), None, b.gather(g, index, dim=dim)


def _import_scatter(name):
    def rule(b, x, dim, index, src):
        if not x.rank or not index.rank or src.dtype != x.dtype:
            return NotImplemented
        if src.shape != index.shape:  # torch reads the leading part
            src = b.slice(src, start=(0,) * src.rank, step=(1,) * src.rank, size=index.shape)
        return b.emit(name, x, index, src, dim=dim % x.rank)
    return rule


def _import_scatter_value(b, x, dim, index, value):
    if not x.rank or not index.rank:
        return NotImplemented
    filled = b.full(shape=index.shape, value=value, dtype=x.dtype, device=x.type.device)
    return b.scatter(x, index, filled, dim=dim % x.rank)


def _scatter_samples():
    return [((torch.randn(3, 5), torch.tensor([[0, 4, 2], [1, 3, 0]]), torch.randn(2, 3)), {"dim": 1})]


register(Op("scatter", "opaque", "x with src put along `dim` where the index says.", _scatter_type,
            meaning=lambda x, index, src, *, dim: x.scatter(dim, index.long(), src), gradient=_scatter_gradient,
            aten={"scatter.src": _import_scatter("scatter"), "scatter.value": _import_scatter_value}, samples=_scatter_samples))

register(Op("scatter_add", "opaque", "x with src added along `dim` where the index says.", _scatter_type,
            meaning=lambda x, index, src, *, dim: x.scatter_add(dim, index.long(), src),
            gradient=lambda b, v, g: (g, None, b.gather(g, v.inputs[1], dim=v.attrs["dim"])),
            aten={"scatter_add": _import_scatter("scatter_add")}, samples=_scatter_samples))


def _import_index_add(b, x, dim, index, src, alpha=1):
    if not x.rank or index.rank != 1 or src.rank != x.rank:
        return NotImplemented
    return b.index_add(x, index, src if alpha == 1 else b.mul(src, alpha), dim=dim % x.rank)


register(Op("index_add", "opaque", "x with the slices of src added where a 1-dimensional index says.", _index_add_type,
            meaning=lambda x, index, src, *, dim: x.index_add(dim, index, src),
            gradient=lambda b, v, g: (g, None, b.index_select(g, v.inputs[1], dim=v.attrs["dim"])),
            aten={"index_add": _import_index_add},
            samples=lambda: [((torch.randn(3, 5), torch.tensor([4, 0, 4]), torch.randn(3, 3)), {"dim": 1})]))
