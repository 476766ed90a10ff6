"""A program with its backward programs, as one node of autograd's graph."""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any, Callable, Mapping, Sequence

import torch

from ...compiler.compare import Mismatch, compare
from ...compiler.dims import Dim
from ...compiler.evaluate import Noise, evaluate, symbol_values, widen
from ...compiler.instantiate import with_sizes
from ...compiler.ops.core import apart, gradients_of
from ...compiler.ops.gradients import gradients
from ...compiler.passes.through import Through
from ..casting import outside_autocast
from ..generators import drawing_from, random_state
from ..recording import Recording
from ..torch_internals import (TENSOR_HOOKS, PlainFunction, current_backward, is_batched, is_batched_by_autograd, keeps_graph,
                               version_of)

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Derivative:
    """What autograd needs of a program that is differentiated.

    through     the recording's graph, as gradients flow through its results. Inputs are those of this graph, too: after the
                recording's own, outputs that others are computed of
    wrt         inputs that get gradients
    cut         inputs that require grad and get none: a backward must not go on into what they were computed by
    of          graph outputs that gradients may arrive for
    reach       reach[i][k]: whether output of[i] depends on input wrt[k]
    saved       what a backward program reads of the forward: ("input", k), or ("extra", k), the k-th extra output
    relevant    inputs whose values the gradients depend on
    strides     those that the gradients of `of` have in a backward program, where autograd may give them in others
    program     for the positions in `of` that gradients arrive for: (*saved, *these gradients) -> gradients of the
                inputs that they reach. It takes some time.
    shared      for each position in `of`, those whose backward pass frees what its own needs
    reads       for positions in `of`, which of `saved` that program reads
    again       the same where the gradients are to be differentiated in turn: for these positions and one call's
                (*inputs, *these gradients), a callable of such, or None where there is no program for it
    """
    wrt: tuple[int, ...]
    of: tuple[int, ...]
    reach: tuple[tuple[bool, ...], ...]
    saved: tuple[tuple[str, int], ...]
    relevant: tuple[int, ...]
    strides: tuple[tuple[Dim, ...], ...]
    program: Callable[[tuple[int, ...]], Callable[..., Sequence[torch.Tensor]]]
    shared: tuple[frozenset[int], ...]
    reads: Callable[[tuple[int, ...]], frozenset[int]]
    again: Callable[[tuple[int, ...], Tensors], Callable[[Tensors], Sequence[torch.Tensor]] | None]
    through: Through
    cut: tuple[int, ...] = ()

    def reached(self, arriving: Sequence[int]) -> tuple[int, ...]:
        """The inputs that these gradients flow to; the others get None, as from torch."""
        return tuple(k for n, k in enumerate(self.wrt) if any(self.reach[i][n] for i in arriving))


def uneven(reach: Sequence[Sequence[bool]], through: Through) -> tuple[int, ...]:
    """The inputs, by their position in `Derivative.wrt`, that some outputs of a region depend on and others do not."""
    rows = list(zip(through.regions, reach))
    regions = len(set(through.regions))
    return tuple(n for n in range(len(reach[0]) if reach else 0) if len({(region, row[n]) for region, row in rows}) > regions)


def parts(reach: Sequence[Sequence[bool]], through: Through, apart: Sequence[int]) -> list[tuple[int, ...]]:
    """The positions in `Derivative.of` of outputs of one region that depend on the same of the inputs `apart`, in an order in
    which none depends on later ones."""
    found: dict[tuple, list[int]] = {}
    for i, row in sorted(enumerate(reach), key=lambda of: through.regions[of[0]]):
        found.setdefault((through.regions[i], *(row[n] for n in apart)), []).append(i)
    return [tuple(part) for part in found.values()]


_hooks = attrgetter(*TENSOR_HOOKS)


def _sees_passes(tensor: torch.Tensor) -> bool:
    """Whether a pass that brings a tensor no gradient can be told from one that does not come by."""
    return tensor.grad_fn is not None or any(_hooks(tensor))


@dataclass
class _Backward:
    """The backward program for one set of arriving gradients. `undefined`: those of its results for which torch, asked in
    the check, had None: a backward of its own may leave out what is empty."""
    program: Callable[[Tensors], Sequence[torch.Tensor]]
    reached: tuple[int, ...]
    unchecked: bool
    undefined: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Left:
    """What a backward pass from some outputs leaves to later ones: `outputs`, of those that gradients may arrive for, and what
    was saved for them, with versions."""
    outputs: frozenset[int]
    saved: tuple[tuple[Any, int], ...]

    def unpacked(self) -> list:
        if any(isinstance(t, torch.Tensor) and version_of(t) != version for t, version in self.saved):
            raise RuntimeError(MODIFIED)
        return [t for t, _ in self.saved]


@dataclass(eq=False)
class _Made:
    """What a call gave that is several nodes of autograd's graph: `results` of the forward, the random numbers' state before it,
    and for the outputs whose steps a backward pass has freed, the pass."""
    results: Sequence[Any]
    generator: Any
    freed: dict[int, int] = field(default_factory=dict)


FREED = ("Trying to backward through the graph a second time: smelt's values of these outputs were freed by an earlier pass. "
         "Specify retain_graph=True if you need to backward through the graph a second time.")
MODIFIED = "smelt: what a gradient of a compiled function depends on was modified by an inplace operation before the backward ran"


class Differentiable:
    """Called with a recording's inputs, gives the graph's outputs as results of one autograd node; of several, where inputs have
    histories or hooks that some outputs do not depend on: a pass from these is not to go there.

    forward     (*inputs) -> the graph's outputs, then the extra ones that backward programs read
    verify      as for the Executable: when a backward program is compared with torch's gradients of the recording
    broken      whether the programs turned out wrong: then the recording itself is differentiated
    report      told a mismatch, the inputs that it was found on, and by output the gradients that arrived
    """

    def __init__(self, recording: Recording, forward: Callable[..., Sequence[Any]], derivative: Derivative, verify: str,
                 broken: Callable[[], bool], report: Callable[[Mismatch, Tensors, Mapping[int, torch.Tensor]], None]):
        self.recording, self.forward, self.derivative = recording, forward, derivative
        self.verify, self.broken, self.report = verify, broken, report
        self.graph, self.stands = derivative.through.graph, derivative.through.stands
        self.outputs = len(self.graph.outputs)
        self.passive = tuple(k for k in range(self.outputs) if k not in set(derivative.of))
        written = set(recording.written)
        by_value = {k for kind, k in derivative.saved if kind == "input"}
        first = {"input": 0, "extra": len(self.graph.inputs) + self.outputs}
        self.saved = tuple(first[kind] + k for kind, k in derivative.saved)  # places in (*inputs, *outputs, *extra outputs)
        flowing = {w.input for w in recording.writebacks if w.flows}
        read = written & (by_value | set(derivative.relevant))
        self.cloned, self.copied = tuple(sorted(read - flowing)), tuple(sorted(read & flowing))
        self.held = tuple(k for k in range(len(self.graph.inputs)) if k not in by_value)
        self.versioned = tuple(k for k in self.held if k in derivative.relevant)
        self.unchecked = verify != "off"  # whether the next call's backward is the first to be compared with the recording
        inputs = len(recording.graph.inputs)
        self._uneven = tuple(n for n in uneven(derivative.reach, derivative.through) if derivative.wrt[n] < inputs)
        self._nodes = lru_cache(self._nodes_for)
        self._leaves: dict[tuple[int, ...], tuple[frozenset[int], frozenset[int]]] = {}
        self._backwards: dict[tuple, _Backward | None] = {}

    def __call__(self, *tensors: torch.Tensor) -> Sequence[torch.Tensor]:
        if self.derivative.cut:
            tensors = tuple(t.detach() if k in self.derivative.cut else t for k, t in enumerate(tensors))
        if self.copied:  # the run writes to them after this, and autograd sees it
            tensors = tuple(copied(t) if k in self.copied else t for k, t in enumerate(tensors))
        apart = tuple(n for n in self._uneven if _sees_passes(tensors[self.derivative.wrt[n]]))
        if apart or self.stands:
            return self._in_parts(tensors, apart)
        outputs = list(_Node.apply(self, None, range(self.outputs), *tensors))
        self._set_apart(outputs, range(len(self.derivative.of)))
        return outputs

    def _nodes_for(self, apart: Sequence[int]) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """Of each node: its outputs by their positions in `Derivative.of`, these outputs, and the inputs that they don't depend
        on."""
        return [(part, tuple(self.derivative.of[i] for i in part),
                 tuple(k for k in range(len(self.graph.inputs)) if k not in self.derivative.reached(part)))
                for part in parts(self.derivative.reach, self.derivative.through, apart)]

    def _set_apart(self, outputs: list[torch.Tensor], part: Sequence[int]) -> None:
        """Let those of one node's outputs that the user has come of nodes of their own: hooks of one are not to see a pass that
        brings gradients for others alone."""
        if len(part) > 1:
            for i in part:
                if i < self.derivative.through.seen:
                    outputs[self.derivative.of[i]] = _Alone.apply(outputs[self.derivative.of[i]])

    def _in_parts(self, tensors: Tensors, apart: Sequence[int]) -> Sequence[torch.Tensor]:
        """The outputs of one call, those of a region that depend on the same of these inputs as results of one node."""
        generator = random_state() if self.recording.random else None
        with torch.no_grad():
            made = _Made(self.forward(*tensors), generator)
        outputs = list(made.results[:self.outputs])
        for part, some, passed in self._nodes(apart):
            given = [*tensors, *[outputs[k] for k in self.stands]]
            for k in passed:
                given[k] = given[k].detach()
            for k, output in zip(some, _Node.apply(self, made, some, *given)):
                outputs[k] = output
            self._set_apart(outputs, part)
        return outputs[:len(self.recording.graph.outputs)]

    def _backward(self, arriving: tuple[int, ...]) -> _Backward:
        program = self.derivative.program(arriving)
        return _Backward(lambda operands: program(*operands), self.derivative.reached(arriving), self.verify != "off")

    def _backward_again(self, arriving: tuple[int, ...], operands: Tensors) -> _Backward | None:
        """A backward program that can be differentiated; None where there can't be one."""
        program = self.derivative.again(arriving, operands)
        return program and _Backward(program, self.derivative.reached(arriving), self.verify != "off")

    def _chosen(self, arriving: tuple[int, ...], live: Tensors | None) -> _Backward | None:
        """The backward program for these gradients; `live`: what it is called with, where it is to be differentiated."""
        key = arriving, None if live is None else tuple(t.requires_grad for t in live)
        if key not in self._backwards:
            self._backwards[key] = self._backward(arriving) if live is None else self._backward_again(arriving, live)
        return self._backwards[key]

    def gradients(self, ctx, arriving: tuple[int, ...], grads: Tensors) -> tuple[Sequence[int], Sequence]:
        """The inputs that gradients reach, and these. `ctx` holds what `_Node.forward` kept."""
        saved = self._unpacked(ctx, arriving)
        again = torch.is_grad_enabled()
        operands = self._inputs(ctx, saved) if again else saved
        strides = with_sizes(self.derivative.strides, ctx.sizes) if self.recording.symbolic else self.derivative.strides
        operands += [laid_out(g, strides[i]) for i, g in zip(arriving, grads)]
        by_program = not self.broken() and not any(map(_is_batched, grads))  # a kernel sees no batch
        backward = self._chosen(arriving, operands if again else None) if by_program else None
        if backward is not None:
            with outside_autocast(), drawing_from(ctx.generator if again else None):
                found = backward.program(operands)
            if not backward.unchecked or self._modified(ctx) \
                    or self._holds(backward, found, self._as_given(ctx, saved), ctx.generator, arriving, grads):
                return backward.reached, [None if n in backward.undefined else g for n, g in enumerate(found)]
        reached = self.derivative.reached(arriving)
        return reached, self._by_recording(self._inputs(ctx, saved), ctx.generator, arriving, grads, reached)

    def _unpacked(self, ctx, arriving: tuple[int, ...]) -> list:
        """What was saved; raises where it was modified in place, or freed by an earlier backward pass. A pass from some outputs
        frees what they are computed by, and leaves the rest to passes from the others."""
        if ctx.made is not None:
            self._pass_through(ctx.made.freed, arriving)
        if ctx.left is not None and ctx.left.outputs.issuperset(arriving):
            pending, saved = ctx.left.outputs, ctx.left.unpacked()
        else:
            keeps = self.saved or any(self.derivative.shared[i] for i in arriving)  # else nothing has been freed
            pending = frozenset(i for i, k in enumerate(self.derivative.of) if k in ctx.given)
            saved = list(ctx.saved_tensors if keeps else ())
            for n, s in ctx.objects:
                saved[n] = s
        if not keeps_graph():
            ctx.left = self._left(arriving, pending, saved) if len(arriving) < len(pending) else None
        return saved

    def _pass_through(self, freed: dict[int, int], arriving: tuple[int, ...]) -> None:
        """Note that a pass goes through one of several nodes; raise where another one has freed what it needs."""
        task = current_backward()
        if any(freed.get(i, task) != task for i in arriving):
            raise RuntimeError(FREED)
        if not keeps_graph():
            freed.update((i, task) for i, shared in enumerate(self.derivative.shared) if not shared.isdisjoint(arriving))

    def _left(self, arriving: tuple[int, ...], pending: frozenset[int], saved: Sequence) -> _Left | None:
        left, needed = self._left_by(arriving)
        kept = (s if n in needed else None for n, s in enumerate(saved))
        kept = tuple((s, version_of(s) if isinstance(s, torch.Tensor) else 0) for s in kept)
        return _Left(left & pending, kept) if left & pending else None

    def _left_by(self, arriving: tuple[int, ...]) -> tuple[frozenset[int], frozenset[int]]:
        """The outputs that a pass from these leaves to later ones, and what of `saved` these need."""
        if arriving not in self._leaves:
            others = (i for i in range(len(self.derivative.of)) if i not in arriving)
            left = tuple(i for i in others if self.derivative.shared[i].isdisjoint(arriving))
            inputs = (n for n, (kind, _) in enumerate(self.derivative.saved) if kind == "input")
            self._leaves[arriving] = frozenset(left), self.derivative.reads(left).union(inputs) if left else frozenset()
        return self._leaves[arriving]

    # By the recording itself

    def _as_given(self, ctx, saved: Sequence) -> list[torch.Tensor]:
        """The forward's inputs, where the call kept them as they were: a write through `.data` shows in no version."""
        return [ctx.as_given.get(k, t) for k, t in enumerate(self._inputs(ctx, saved))]

    def _modified(self, ctx) -> bool:
        return any(version_of(ctx.primals[k]) != version for k, version in ctx.versions)

    def _inputs(self, ctx, saved: Sequence) -> list[torch.Tensor]:
        """The forward's inputs. One that no gradient depends on may have other values by now."""
        if self._modified(ctx):
            raise RuntimeError(MODIFIED)
        inputs = dict(ctx.primals)
        inputs.update((k, s) for (kind, k), s in zip(self.derivative.saved, saved) if kind == "input")
        return [inputs[k] for k in range(len(inputs))]

    def _by_recording(self, inputs: Tensors, generator, arriving, grads: Tensors, reached: Sequence[int], **how):
        """Torch's gradients of the recording evaluated again, with the same random numbers. Under grad mode
        (create_graph=True) they are connected to the inputs, and can be differentiated in turn. `how` to evaluate it:
        see `evaluate`."""
        again, wrt = torch.is_grad_enabled(), self.derivative.wrt
        with torch.enable_grad(), outside_autocast(), drawing_from(generator):
            # An alias, so that hooks of the input itself run for the outer backward alone.
            inputs = [t.detach() if k not in wrt else t.view_as(t) if again else t.detach().requires_grad_()
                      for k, t in enumerate(inputs)]
            outputs = evaluate(self.graph, inputs, **how)
        return _gradients([outputs[self.derivative.of[i]] for i in arriving], [inputs[k] for k in reached], grads, again)

    @torch.no_grad()
    def _holds(self, backward: _Backward, ours: Sequence, inputs: Tensors, generator, arriving, grads: Tensors) -> bool:
        """Whether the program's gradients are torch's; a mismatch is reported."""
        theirs = self._by_recording(inputs, generator, arriving, grads, backward.reached)
        backward.unchecked = self.verify == "always"
        defined = [n for n, g in enumerate(theirs) if g is not None]
        backward.undefined = tuple(n for n, g in enumerate(theirs) if g is None)

        def again(inputs, grads, **how):
            found = self._by_recording(inputs, generator, arriving, grads, backward.reached, **how)
            return [found[n] for n in defined]
        mismatch = compare([ours[n] for n in defined], [theirs[n] for n in defined],
                           lambda wanted: again(widen(list(inputs)), widen(list(grads)), precise=True),
                           lambda seed, wanted: again(inputs, grads, noise=Noise(seed)))
        if mismatch is not None:
            self.report(mismatch, inputs[:len(self.recording.graph.inputs)],
                        {self.derivative.of[i]: g for i, g in zip(arriving, grads) if i < self.derivative.through.seen})
        return mismatch is None


class _Node(PlainFunction):
    """One call of a program in autograd's graph, or the part of it that `made` holds: the outputs `given` (by number)."""

    @staticmethod
    def forward(ctx, program: Differentiable, made: _Made | None, given: Sequence[int], *tensors):
        ctx.program, ctx.made, ctx.given = program, made, given
        ctx.generator = made.generator if made else random_state() if program.recording.random else None
        ctx.sizes = symbol_values(program.recording.graph, tensors) if program.recording.symbolic else {}
        results = made.results if made else program.forward(*tensors)
        if program.cloned:  # the run writes to them after this
            tensors = [copied(t) if k in program.cloned else t for k, t in enumerate(tensors)]
        outputs, everything = results[:program.outputs], (*tensors, *results)
        saved = [everything[k] for k in program.saved]
        ctx.objects = [(n, s) for n, s in enumerate(saved) if not isinstance(s, torch.Tensor)]
        for n, _ in ctx.objects:
            saved[n] = None
        ctx.save_for_backward(*saved)
        ctx.primals = {k: tensors[k] for k in program.held}
        ctx.as_given = {k: copied(tensors[k].detach()) for k in program.versioned} if program.unchecked else {}
        program.unchecked &= program.verify == "always"
        ctx.versions = [(k, version_of(tensors[k])) for k in program.versioned]
        ctx.inputs, ctx.left = len(tensors), None
        ctx.set_materialize_grads(False)
        if program.passive:
            ctx.mark_non_differentiable(*(outputs[k] for k in program.passive if k in given))
        return tuple(outputs[k] for k in given)

    @staticmethod
    def backward(ctx, *grads):
        out: list[torch.Tensor | None] = [None] * (3 + ctx.inputs)
        of, grads = ctx.program.derivative.of, dict(zip(ctx.given, grads))
        arriving = tuple(i for i, k in enumerate(of) if grads.get(k) is not None)
        if arriving:
            for k, g in zip(*ctx.program.gradients(ctx, arriving, [grads[of[i]] for i in arriving])):
                out[3 + k] = g
        return tuple(out)


class _Alone(PlainFunction):
    """The same tensor as the result of a node that has no other."""

    @staticmethod
    def forward(ctx, output):
        ctx.set_materialize_grads(False)
        return output.detach()

    @staticmethod
    def backward(ctx, grad):
        return grad


class _End(PlainFunction):
    """The end of a graph: a backward pass raises the error, also one for a source alone, or goes no further where there is
    none; a second one raises if one can go through `once`."""

    @staticmethod
    def forward(ctx, flag, output, error, once, *sources):
        ctx.error, ctx.once = error, once
        return output[0]

    @staticmethod
    def backward(ctx, *grads):
        if ctx.error:
            raise RuntimeError(ctx.error)
        if ctx.once:
            ctx.saved_tensors  # raises where a pass has freed them
        return (None,) * len(ctx.needs_input_grad)


_FLAG = torch.empty(0, requires_grad=True)  # makes what it is given to require grad


def gradients_between(operands: Tensors, roots: int, again: bool, strides: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """The gradients of a `gradients` value's operands, from autograd's engine: in these strides, each in memory of its own."""
    found = gradients(*operands, roots=roots, again=again)
    return list(apart((laid_out(g, order) for g, order in zip(found, strides)), operands))


def as_end(output: torch.Tensor, error: str, once: bool = False, sources: Tensors = ()) -> torch.Tensor:
    """The same memory, requiring grad, but with a gradient that flows nowhere; see _End."""
    with torch.enable_grad():
        return _End.apply(_FLAG, (output.detach(),), error, once, *sources)


def _gradients(outputs: Tensors, inputs: Tensors, grads: Tensors, create_graph: bool) -> Sequence:
    """torch's gradients, None where an input is not reached."""
    if not inputs:
        return ()
    if any(map(_is_batched, grads)):  # which may not enter an autograd.Function
        return torch.autograd.grad(outputs, inputs, grads, create_graph=create_graph, allow_unused=True)
    return gradients_of(outputs, inputs, grads, create_graph)


def _is_batched(grad: torch.Tensor) -> bool:
    """Whether vmap runs this backward for many gradients at once (is_grads_batched, a vectorized jacobian)."""
    return is_batched(grad) or is_batched_by_autograd(grad)


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """The same elements in the same layout, also one with gaps, in other memory. Gradients flow back."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def laid_out(grad: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """A tensor, as a gradient, in the memory layout that a reader counts on; what autograd expands has strides of 0."""
    if grad.stride() == strides:
        return grad
    return torch.empty_strided(grad.shape, strides, dtype=grad.dtype, device=grad.device).copy_(grad)
