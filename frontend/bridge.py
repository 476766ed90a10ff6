"""From programs to a callable that stands for a recorded run: autograd, write-backs, views, and the check of the first run."""
from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Callable, Sequence

import torch

from ..compiler.compare import compare, evaluate_precisely
from ..compiler.evaluate import evaluate
from ..errors import SmeltWarning, WrongResult
from .recording import Fresh, Given, InputView, OutputView, Recording

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Derivative:
    """What autograd needs of a program that is differentiated.

    wrt         inputs that get gradients
    of          graph outputs that gradients arrive for
    saved       what the backward program reads of the forward: ("input", k), ("output", k), or ("extra", k), the k-th extra output
    backward    (*saved, *gradients of `of`) -> gradients of `wrt`
    """
    wrt: tuple[int, ...]
    of: tuple[int, ...]
    saved: tuple[tuple[str, int], ...]
    backward: Callable[..., Sequence[torch.Tensor]]


class Executable:
    """Runs one recorded path. Called with the recording's input tensors, gives its result tensors.

    `forward(*inputs)` gives the graph's outputs and then the extra ones that the backward program reads.
    `verify`: "first", "always", "raise" or "off". On a mismatch `on_mismatch(Mismatch, stage)` is told, the reference's
    results are returned, and `broken` says why from then on; the caller must not use a broken executable again.
    """

    def __init__(self, recording: Recording, forward: Callable[..., Sequence[Any]], derivative: Derivative | None = None,
                 verify: str = "first", on_mismatch: Callable[[Any, str, Tensors], str] | None = None):
        self.recording, self.forward, self.derivative = recording, forward, derivative
        self.verify, self.on_mismatch = verify, on_mismatch
        self.unchecked = verify != "off"
        self.unchecked_backward = verify != "off" and derivative is not None
        self.broken = ""
        self._outputs = len(recording.graph.outputs)
        self._plain = not recording.writebacks and all(isinstance(r, Fresh) for r in recording.results)
        self._order = tuple(r.output for r in recording.results) if self._plain else ()
        self._identity = self._plain and self._order == tuple(range(self._outputs))
        if derivative is not None:
            written = {w.input for w in recording.writebacks}
            self._cloned = tuple(k for kind, k in derivative.saved if kind == "input" and k in written)
            self._passive = tuple(k for k in range(self._outputs) if k not in set(derivative.of))

    def __call__(self, tensors: Tensors) -> Sequence[torch.Tensor]:
        if self.unchecked:
            return self._results(tensors, self._checked_outputs(tensors))
        if self.derivative is not None:
            outputs = _Bridge.apply(self, None, *tensors)
        else:
            outputs = self.forward(*tensors)
        if self._identity:
            return outputs
        if self._plain:
            return [outputs[k] for k in self._order]
        return self._results(tensors, outputs)

    def _results(self, tensors: Tensors, outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The run's results, in order, after the write-backs (which the bridge has done where there is a derivative)."""
        if self.derivative is None:
            self._write_back(tensors, outputs)
        made = []
        for r in self.recording.results:
            if isinstance(r, Given):
                made.append(tensors[r.input])
            elif isinstance(r, Fresh):
                made.append(outputs[r.output])
            elif isinstance(r, InputView):
                made.append(replay(tensors[r.input], r.steps))
            else:
                made.append(replay(outputs[r.output], r.steps))
        return made

    def _write_back(self, tensors: Tensors, outputs: Sequence[torch.Tensor]) -> None:
        if self.recording.writebacks:
            with torch.no_grad():
                for w in self.recording.writebacks:
                    tensors[w.input].copy_(outputs[w.output])

    # The check of the first run

    def _checked_outputs(self, tensors: Tensors) -> Sequence[torch.Tensor]:
        graph = self.recording.graph
        state = torch.get_rng_state() if self.recording.random else None
        reference, leaves = self._reference(tensors)
        if state is not None:
            torch.set_rng_state(state)
        taped = (reference, leaves) if self.unchecked_backward else None
        before = [t.detach().clone() for t in tensors] if self.recording.writebacks else tensors
        if self.derivative is not None:
            outputs = _Bridge.apply(self, taped, *tensors)
        else:
            outputs = self.forward(*tensors)
        found = compare(outputs, reference, None if state is not None else lambda: evaluate_precisely(graph, before))
        if self.verify == "first" or self.verify == "raise":
            self.unchecked = False
        if found is None:
            return outputs
        self._report(found, "forward", before)
        return [r if r.requires_grad == o.requires_grad else o for r, o in zip(self._live_reference(tensors, before, state), outputs)]

    def _reference(self, tensors: Tensors):
        """The unoptimised recording evaluated on copies of the inputs, under autograd where a backward will be checked."""
        wrt = self.derivative.wrt if self.derivative is not None else ()
        leaves = [t.detach().requires_grad_() if k in wrt else t.detach() for k, t in enumerate(tensors)]
        with torch.set_grad_enabled(bool(wrt)):
            return evaluate(self.recording.graph, leaves), leaves

    def _live_reference(self, tensors: Tensors, before: Tensors, state) -> list[torch.Tensor]:
        """The reference's outputs, connected to the caller's own tensors."""
        if state is not None:
            torch.set_rng_state(state)
        inputs = [t if t.requires_grad else b for t, b in zip(tensors, before)]
        outputs = evaluate(self.recording.graph, inputs)
        if self.derivative is not None:
            self._write_back(tensors, outputs)
        return outputs

    def _report(self, mismatch, stage: str, inputs: Tensors) -> None:
        told = self.on_mismatch(mismatch, stage, inputs) if self.on_mismatch else str(mismatch)
        self.broken = told
        if self.verify == "raise":
            raise WrongResult(told)
        warnings.warn(told, SmeltWarning, stacklevel=4)

    def check_gradients(self, ours: Sequence, taped, defined: Sequence[int], grads: Sequence[torch.Tensor]) -> Sequence:
        """Compare the backward program's first result with torch's gradients of the reference."""
        reference, leaves = taped
        wrt = self.derivative.wrt
        theirs = torch.autograd.grad([reference[k] for k in defined], [leaves[k] for k in wrt], grads, allow_unused=True)
        if self.verify != "always":
            self.unchecked_backward = False
        reached = [k for k, g in enumerate(theirs) if g is not None]
        mine = [torch.zeros_like(theirs[k]) if ours[k] is None else ours[k] for k in reached]

        def precisely():
            wide = [leaf.detach().double() if leaf.is_floating_point() else leaf for leaf in leaves]
            wide = [w.requires_grad_() if k in wrt else w for k, w in enumerate(wide)]
            with torch.enable_grad():
                outputs = evaluate(self.recording.graph, wide, precise=True)
            found = torch.autograd.grad([outputs[k] for k in defined], [wide[wrt[k]] for k in reached],
                                        [g.to(outputs[k].dtype) for k, g in zip(defined, grads)])
            return found
        found = compare(mine, [theirs[k] for k in reached], None if self.recording.random else precisely)
        if found is None:
            return ours
        self._report(found, "backward", leaves)
        return theirs


class _Bridge(torch.autograd.Function):
    """One program with its backward program, as a node of autograd's graph."""

    @staticmethod
    def forward(ctx, executable: Executable, taped, *tensors):
        d = executable.derivative
        held = {k: tensors[k].clone() for k in executable._cloned} if executable._cloned else {}
        results = executable.forward(*tensors)
        outputs, extra = results[:executable._outputs], results[executable._outputs:]
        saved = [held.get(k, tensors[k]) if kind == "input" else outputs[k] if kind == "output" else extra[k] for kind, k in d.saved]
        executable._write_back(tensors, outputs)
        ctx.executable, ctx.taped = executable, taped
        ctx.objects = [None if isinstance(s, torch.Tensor) else s for s in saved]
        ctx.save_for_backward(*(s if isinstance(s, torch.Tensor) else None for s in saved))
        ctx.primals = tensors
        ctx.versions = [t._version for t in tensors]
        ctx.set_materialize_grads(False)
        if executable._passive:
            ctx.mark_non_differentiable(*(outputs[k] for k in executable._passive))
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *grads):
        executable = ctx.executable
        d = executable.derivative
        out = [None] * (2 + len(ctx.primals))
        defined = [k for k in d.of if grads[k] is not None]
        if not defined:
            return tuple(out)
        if torch.is_grad_enabled() or len(defined) < len(d.of):
            found = _through_reference(ctx, defined, grads)
        else:
            saved = [s if o is None else o for s, o in zip(ctx.saved_tensors, ctx.objects)]
            found = d.backward(*saved, *(grads[k] for k in d.of))
            if ctx.taped is not None and executable.unchecked_backward:
                found = executable.check_gradients(found, ctx.taped, defined, [grads[k] for k in defined])
        for k, g in zip(d.wrt, found):
            out[2 + k] = g
        return tuple(out)


def _through_reference(ctx, defined: Sequence[int], grads: Sequence) -> Sequence:
    """Gradients by torch's autograd over the reference evaluation: for a backward that is itself differentiated
    (create_graph=True), and for one in which only some outputs got gradients."""
    executable = ctx.executable
    d, graph = executable.derivative, executable.recording.graph
    if executable.recording.random:
        raise RuntimeError("smelt: this backward (create_graph=True, or gradients for only some of the outputs) evaluates the "
                           "forward again, which would draw other random numbers; call the function uncompiled here")
    if any(t._version != version for t, version in zip(ctx.primals, ctx.versions)):
        raise RuntimeError("smelt: an input of a compiled function was modified in place before its backward ran")
    again = torch.is_grad_enabled()
    primals = ctx.primals if again else [t.detach().requires_grad_() if k in d.wrt else t.detach() for k, t in enumerate(ctx.primals)]
    with torch.enable_grad():
        outputs = evaluate(graph, primals)
    return torch.autograd.grad([outputs[k] for k in defined], [primals[k] for k in d.wrt], [grads[k] for k in defined],
                               create_graph=again, allow_unused=True)


def replay(tensor: torch.Tensor, steps) -> torch.Tensor:
    """Make a recorded view of a tensor."""
    for s in steps:
        with torch.set_grad_enabled(s.grad):
            tensor = s.function(tensor, *s.args, **s.kwargs)
        if s.index is not None:
            tensor = tensor[s.index]
    return tensor
