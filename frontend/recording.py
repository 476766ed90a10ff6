"""What one recorded run came to: a pure graph, and how its outputs become the run's results and effects."""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Callable, Mapping, Union

import torch

from ..compiler.ir import Graph
from .readings import Reading


@dataclass(frozen=True)
class ViewStep:
    """One torch call that makes a view (`function(tensor, *args, **kwargs)`), replayed on real tensors on every call.

    `index` takes one tensor out where the call gives several. `grad` is the grad mode it was recorded under. `counted`:
    whether autograd counts writes to the two tensors together.
    """
    function: Callable
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    index: int | None = None
    grad: bool = True
    counted: bool = True


def replay(tensor: torch.Tensor, steps) -> torch.Tensor:
    """Make a recorded view of a tensor."""
    for s in steps:
        with torch.set_grad_enabled(s.grad):
            tensor = s.function(tensor, *s.args, **s.kwargs)
        if s.index is not None:
            tensor = tensor[s.index]
        if not s.counted:
            tensor = tensor.data
    return tensor


@dataclass(frozen=True)
class Given:
    """A result that is one of the inputs itself (the same object)."""
    input: int


@dataclass(frozen=True)
class InputView:
    """A result that shares memory with an input: replay `steps` on it, after the write-backs."""
    input: int
    steps: tuple[ViewStep, ...]


@dataclass(frozen=True)
class Fresh:
    """A result that is graph output `output`, alone in its memory. `leaf`: it is one that the run let require grad; `parameter`:
    it is a torch.nn.Parameter; `inference`: whether it was made under inference mode, where that is not the caller's mode."""
    output: int
    requires_grad: bool
    leaf: bool = False
    parameter: bool = False
    inference: bool | None = None


@dataclass(frozen=True)
class OutputView:
    """A result that shares memory with other results: replay `steps` on graph output `output`. `inference`: as of others."""
    output: int
    steps: tuple[ViewStep, ...]
    requires_grad: bool
    inference: bool | None = None


Result = Union[Given, InputView, Fresh, OutputView]


@dataclass(frozen=True)
class WriteBack:
    """After the run, copy graph output `output` into input `input` in place, where autograd counted `counted` writes: batch norm
    writes its statistics uncounted. `replaces`: the input gets the output's memory instead. `flows`: autograd sees the write;
    the input's gradient is that of the output from then on."""
    input: int
    output: int
    counted: int = 1
    replaces: bool = False
    flows: bool = False


@dataclass(frozen=True)
class GradWrite:
    """After the write-backs, let `.grad` of input `input`, or of this leaf among the results, be this result, or None."""
    input: int | None
    result: Result | None
    leaf: Fresh | None = None


@dataclass(frozen=True)
class Flag:
    """Whether input `input` requires grad, which the run set: `before` the run, `within` it at any time, and `after` it."""
    input: int
    before: bool
    within: bool
    after: bool


@dataclass(frozen=True)
class Grads:
    """What a run depends on, and leaves, in `.grad` of its inputs.

    fetched   (k, leaf): input k is what `.grad` of input `leaf` holds when the call begins
    known     those of these k that are reached in another way too
    absent    inputs whose `.grad` is None then
    unhooked  inputs that gradients arrive at: a hook of theirs would run
    leaves    (k, whether input k is a leaf) where the run depends on that
    writes    what the run leaves there
    """
    fetched: tuple[tuple[int, int], ...] = ()
    known: tuple[int, ...] = ()
    absent: tuple[int, ...] = ()
    unhooked: tuple[int, ...] = ()
    leaves: tuple[tuple[int, bool], ...] = ()
    writes: tuple[GradWrite, ...] = ()


#: of ops that compute and do nothing else
_NAMESPACES = frozenset({"aten", "prims", "smelt"})


@dataclass(frozen=True, eq=False)
class Recording:
    """One run. `tensors[k]` is the very tensor that was graph input k: the arguments first, in the order given to the
    recorder (those the run never read included), then whatever else the run read (parameters, buffers, globals).
    `results` has one entry per tensor returned, the very same entry where one tensor is returned twice. `graph` is the
    unoptimised recording: pure, no in-place ops. The last inputs are the `numbers`, symbolic ones, as 0-dim tensors;
    `elements` are inputs that such are read from, by the names that they have there. `spent` are outputs that require grad,
    and a backward pass from which raises, with the error. `loose` are others, whose gradient flows to leaves that the run made
    and kept to itself, with whether a second backward pass raises. `versions` are outputs that the run wrote to once it had made
    them, with how often autograd counted that. `flags` are those that the run set. `differentiated` are the inputs that require
    grad, `computed` those of them that are never leaves, and `written` those that the call writes to before it ends. The graph
    stands for the run only where `readings` come out as they did in it. `enabled` says that gradients are on for the results,
    though they are off where the function is called."""
    graph: Graph
    tensors: tuple[torch.Tensor, ...]
    results: tuple[Result, ...]
    writebacks: tuple[WriteBack, ...] = ()
    random: bool = False
    numbers: tuple[Any, ...] = ()
    grads: Grads = Grads()
    spent: Mapping[int, str] = field(default_factory=dict)
    elements: Mapping[str, int] = field(default_factory=dict)
    differentiated: tuple[int, ...] = ()
    written: tuple[int, ...] = ()
    readings: tuple[Reading, ...] = ()
    enabled: bool = False
    loose: Mapping[int, bool] = field(default_factory=dict)
    versions: Mapping[int, int] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    computed: tuple[int, ...] = ()

    @property
    def landing(self) -> dict[int, int]:
        """The outputs that are for a write-back alone, with the inputs that they are written to."""
        others = {r.output for r in self.entries.values() if isinstance(r, (Fresh, OutputView))}
        return {w.output: w.input for w in self.writebacks if w.output not in others and not w.replaces and not w.flows}

    @cached_property
    def flowing(self) -> tuple[int, ...]:
        """The outputs from which gradients flow to inputs."""
        written = (w.output for w in self.writebacks if w.flows)
        return tuple(dict.fromkeys((*(r.output for r in self.entries.values() if self.flows(r)), *written)))

    @property
    def raised(self) -> list[int]:
        """The inputs that require grad within the run and not before it."""
        return [f.input for f in self.flags if f.within and not f.before]

    def flows(self, result: Result | None) -> bool:
        """Whether gradients flow from a result to inputs."""
        made = isinstance(result, (Fresh, OutputView)) and result.requires_grad
        return made and result.output not in self.spent and result.output not in self.loose

    @cached_property
    def symbolic(self) -> bool:
        """Whether sizes of the graph are symbols."""
        return bool(self.graph.bindings())

    @cached_property
    def foreign(self) -> tuple[str, ...]:
        """The ops that it calls and that are not torch's own: they may do more than compute, so that one call runs each once."""
        targets = (v.attrs.get("target", "") for v in self.graph.values if v.op.kind == "opaque")
        return tuple(dict.fromkeys(t for t in targets if isinstance(t, str) and t and t.split(".")[0] not in _NAMESPACES))

    @cached_property
    def entries(self) -> dict[int, Result | None]:
        """Every result to be made, and every gradient, by its id."""
        return {id(r): r for r in (*self.results, *(w.result for w in self.grads.writes))}
