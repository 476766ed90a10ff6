"""torch's ops on lists of tensors, as one op for each of the tensors: what they are, but for the number of launches."""
from __future__ import annotations

from typing import Any, Callable

import torch

from ..torch_internals import schema_of

#: Functions for single tensors, where they are not the methods of the list op's name.
_FUNCTIONS = {"maximum": torch.Tensor.clamp_min, "maximum_": torch.Tensor.clamp_min_, "minimum": torch.Tensor.clamp_max,
              "minimum_": torch.Tensor.clamp_max_, "norm": torch.linalg.vector_norm, "pow": torch.pow}


def one_by_one(function: Callable) -> Callable | None:
    """The same as an overload of a `_foreach_` op, on one tensor after the other; None for any other op."""
    schema = schema_of(function)
    name = schema.name.removeprefix("aten::_foreach_")
    single = _FUNCTIONS.get(name) or getattr(torch.Tensor, name, None)
    if name == schema.name or single is None or any(a.is_out or a.name == "scalars" and str(a.type) == "Tensor"
                                                    for a in schema.arguments):
        return None

    def run(*args, **kwargs):
        given = {a.name: args[k] if k < len(args) else kwargs.get(a.name, a.default_value)
                 for k, a in enumerate(schema.arguments)}
        count = next(len(v) for v in given.values() if isinstance(v, (list, tuple)))
        results = [_on_one(single, given, k) for k in range(count)]
        return results if schema.returns else None
    return run


def _on_one(single: Callable, given: dict[str, Any], k: int) -> torch.Tensor:
    """The k-th of the calls: each list among the arguments gives its k-th item."""
    items = {name: v[k] if isinstance(v, (list, tuple)) else v for name, v in given.items()}
    if "tensor2" in items:  # addcmul, addcdiv
        items["value"] = items.pop("scalars") if "scalars" in items else items["value"]
    named = {name: items.pop(name) for name in ("alpha", "value", "dtype", "memory_format") if name in items}
    return single(*items.values(), **named)
