"""From programs to a callable that stands for a recorded run: write-backs, views, and the check of the first run."""
from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import Any, Callable, Mapping, Sequence

import torch

from ...compiler.compare import Mismatch, compare, evaluate_noisily, evaluate_precisely
from ...compiler.dims import Sym
from ...compiler.evaluate import evaluate, symbol_values
from ...compiler.instantiate import with_sizes
from ...compiler.ir import TensorType, dense
from ...errors import BuildError, SmeltWarning, Unsupported, WrongResult
from ..casting import autocasting, outside_autocast
from ..generators import State, drawing_from, random_state
from ..recording import Fresh, Given, InputView, Recording, Result, replay
from ..torch_internals import set_versions, version_of
from .backward import Derivative, Differentiable, as_end, copied, laid_out
from .before import TORCH, Before

Tensors = Sequence[torch.Tensor]


class Late:
    """In the place of a run that is not built yet: that of a recording whose own run changed what it depends on, as an
    optimiser's first step does. It is built when a call fits it after all, or when someone asks what would run. `reason`: why
    it can't be built, which is said."""

    def __init__(self, build: Callable[[], Callable], say: Callable[[Unsupported | BuildError], None]):
        self.reason = ""
        self._build, self._say = build, say

    @classmethod
    def several(cls, count: int, build: Callable[[], Sequence[Callable]],
                say: Callable[[Unsupported | BuildError], None]) -> list[Late]:
        """For so many runs, which are built together once one of them is needed."""
        built = cache(build)
        return [cls(lambda k=k: built()[k], say) for k in range(count)]

    @cached_property
    def run(self) -> Callable | None:
        """What was waited for; None where it can't be built."""
        try:
            return self._build()
        except (Unsupported, BuildError) as why:
            self.reason = str(why)
            self._say(why)
            return None


class Executable:
    """Runs one recorded path. Called with the recording's input tensors, gives its result tensors.

    `forward(*inputs)` gives the graph's outputs and then the extra ones that the backward program reads.
    `verify`: "first", "always", "raise" or "off". On a mismatch `on_mismatch(Mismatch, stage, inputs, gradients that
    arrived, by output)` is told, the reference's results are returned, and `broken` says why from then on; the caller must not
    use a broken executable again.
    """

    def __init__(self, recording: Recording, forward: Callable[..., Sequence[Any]], derivative: Derivative | None = None,
                 verify: str = "first",
                 on_mismatch: Callable[[Mismatch, str, Tensors, Mapping[int, torch.Tensor]], str] | None = None):
        recording = replace(recording, tensors=())  # the first call's arguments are not to live on
        self.recording, self.derivative = recording, derivative
        self.verify, self.on_mismatch = verify, on_mismatch
        self.unchecked = verify != "off"
        self.broken = ""
        if autocasting():
            forward = _outside_autocast(forward)
        if recording.versions:
            forward = _counting(forward, recording.versions)
        self._run = forward if derivative is None else Differentiable(
            recording, forward, derivative, verify, lambda: bool(self.broken),
            lambda found, *given: self._report(found, "backward", *given))
        if recording.enabled:
            self._run = torch.enable_grad()(self._run)
        requiring = recording.raised if derivative is not None else ()
        if recording.random or requiring:
            self._run = _undone(self._run, recording.random, requiring)
        more = recording.writebacks or recording.grads.writes or recording.spent or recording.loose or recording.flags
        self._plain = not more and all(isinstance(r, Fresh) and r == Fresh(r.output, r.requires_grad) for r in recording.results)
        self._written = frozenset(recording.landing.values()) if derivative is None else ()
        self._order = tuple(r.output for r in recording.results) if self._plain else ()
        self._identity = self._plain and self._order == tuple(range(len(recording.graph.outputs)))

    def __call__(self, tensors: Tensors) -> Sequence[torch.Tensor]:
        outputs = self._checked(tensors) if self.unchecked else self._run(*tensors)
        if self._identity:
            return outputs
        if self._plain:
            return [outputs[k] for k in self._order]
        return assemble(self.recording, tensors, outputs)

    # The check of the first run

    def _checked(self, tensors: Tensors) -> Sequence[torch.Tensor]:
        """The outputs, held against the recording evaluated op by op; those of the recording if they differ."""
        graph = self.recording.graph
        state = random_state() if self.recording.random else None
        plain = [t.detach() for t in tensors]
        with torch.no_grad(), outside_autocast(), drawing_from(state):
            reference = evaluate(graph, plain)
        # What a run writes to in place is to stay as it was until this is over.
        outputs = self._run(*(copied(t.detach()) if k in self._written else t for k, t in enumerate(tensors)))

        def again(how, *which):
            with torch.no_grad(), outside_autocast(), drawing_from(state):
                return how(graph, plain, *which)
        found = compare(outputs, reference, partial(again, evaluate_precisely), partial(again, evaluate_noisily))
        self.unchecked = self.verify == "always"
        if found is None:
            return outputs
        self._report(found, "forward", plain)
        if self.derivative is None:
            return reference
        with outside_autocast(), drawing_from(state), torch.set_grad_enabled(torch.is_grad_enabled() or self.recording.enabled):
            live = evaluate(graph, tensors)
        return [r if r.requires_grad == o.requires_grad else o for r, o in zip(live, outputs)]

    def _report(self, mismatch: Mismatch, stage: str, inputs: Tensors, grads: Mapping[int, torch.Tensor] = {}) -> None:
        told = self.on_mismatch(mismatch, stage, inputs, grads) if self.on_mismatch else str(mismatch)
        self.broken = told
        if self.verify == "raise":
            raise WrongResult(told)
        warnings.warn(told, SmeltWarning, stacklevel=5)


def misrecorded(recording: Recording, results: Tensors, state: State) -> Mismatch | None:
    """Where a recording, evaluated op by op, gives something else than the run gave; None if nowhere, or if that can't be told
    any more: the run wrote to tensors that it read, and their values are gone.

    results: the run's, one for each of the recording's; state: of the random numbers when the run began
    """
    if recording.writebacks:
        return None
    tensors = [t.detach() for t in recording.tensors]

    def again(how: Callable = evaluate, *seed: int) -> list[torch.Tensor]:
        with torch.no_grad(), outside_autocast(), drawing_from(state if recording.random else None):
            found = how(recording.graph, tensors, *seed)
            outputs = [_in_layout(o, v.type) for o, v in zip(found, recording.graph.outputs)]
            return [_result(r, tensors, outputs, {}) for r in recording.results]
    found = compare(results, again(), lambda _: again(evaluate_precisely), lambda seed, _: again(evaluate_noisily, seed))
    return found and replace(found, ours=found.reference, reference=found.ours)


def _in_layout(output: torch.Tensor, type: TensorType) -> torch.Tensor:
    """An output of the reference, for views of it, in the layout that the run's has."""
    return laid_out(output, type.strides) if dense(type.shape, type.strides) else output


def assemble(recording: Recording, tensors: Tensors, outputs: Tensors) -> list[torch.Tensor]:
    """The run's results, in order, from its graph's outputs: after the write-backs into the input tensors."""
    sizes = symbol_values(recording.graph, tensors) if recording.symbolic else {}
    with torch.no_grad():
        for w in recording.writebacks:
            if w.flows:
                with torch.enable_grad():
                    _write(tensors[w.input], outputs[w.output], w.counted)
            elif w.replaces:
                # what a backward pass keeps stays as it is
                _replace(tensors[w.input], outputs[w.output].clone() if recording.flowing else outputs[w.output], w.counted)
            elif outputs[w.output] is not tensors[w.input]:
                _write(tensors[w.input], outputs[w.output], w.counted)
    landed = [tensors[w.input] for w in recording.writebacks if outputs[w.output] is tensors[w.input] for _ in range(w.counted)]
    if landed:
        torch.autograd.graph.increment_version(landed)
    for f in recording.flags:
        tensors[f.input].requires_grad_(f.after)
    if recording.spent or recording.loose:
        sources = [tensors[k] for k in recording.differentiated]
        ends = {**{k: (error, False, sources) for k, error in recording.spent.items()},
                **{k: ("", once) for k, once in recording.loose.items()}}
        outputs = [as_end(o, *ends[k]) if k in ends else o for k, o in enumerate(outputs)]
    made = {key: _result(r, tensors, outputs, sizes) for key, r in recording.entries.items()}
    for w in recording.grads.writes:
        (tensors[w.input] if w.leaf is None else made[id(w.leaf)]).grad = made[id(w.result)]
    return [made[id(r)] for r in recording.results]


def _result(r: Result | None, tensors: Tensors, outputs: Tensors, sizes: Mapping[Sym, int]) -> torch.Tensor | None:
    if r is None:
        return None
    if isinstance(r, Given):
        return tensors[r.input]
    if isinstance(r, InputView):
        made = tensors[r.input]
    else:
        made = outputs[r.output] if r.inference is None else _of_mode(outputs[r.output], r.inference)
    if isinstance(r, Fresh):
        return torch.nn.Parameter(made, r.leaf) if r.parameter else made.requires_grad_() if r.leaf else made
    steps = r.steps
    if sizes:
        steps = [replace(s, args=with_sizes(s.args, sizes), kwargs=with_sizes(s.kwargs, sizes)) for s in steps]
    return replay(made, steps)


def _of_mode(tensor: torch.Tensor, inference: bool) -> torch.Tensor:
    """A tensor on the same memory as if it had been made under inference mode, or not under it."""
    with torch.inference_mode(inference):
        made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        made.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    if not inference:
        set_versions((made,), (0,))
    return made


def _write(tensor: torch.Tensor, value: torch.Tensor, counted: int) -> None:
    """Copy a value into a tensor, as so many writes that autograd counts."""
    target = tensor if counted else tensor.data  # whose writes do not count
    target.copy_(value)
    for _ in range(counted - 1):
        torch.autograd.graph.increment_version(tensor)


def _replace(tensor: torch.Tensor, value: torch.Tensor, counted: int) -> None:
    """Let a tensor have the memory of a value, and autograd count so many writes."""
    tensor.data = value
    for _ in range(counted):
        torch.autograd.graph.increment_version(tensor)


def _counting(forward: Callable, versions: Mapping[int, int]) -> Callable:
    """One whose outputs, by number, count as written to so often. A custom Function has counted its own writes."""
    def run(*inputs):
        outputs = forward(*inputs)
        for k, count in versions.items():
            for _ in range(version_of(outputs[k]), count):
                torch.autograd.graph.increment_version(outputs[k])
        return outputs
    return run


def _undone(function: Callable, random: bool, requiring: Sequence[int]) -> Callable:
    """One for which these inputs require grad, from then on. Where it raises, they do not and no random number is drawn: then
    the user's function runs instead."""
    generators = (TORCH,) if random else ()

    def run(*tensors):
        before = Before(generators)
        before.let_require(tensors[k] for k in requiring)
        try:
            return function(*tensors)
        except Exception:
            before.put_back()
            raise
    return run


def _outside_autocast(function: Callable) -> Callable:
    def run(*inputs):
        with outside_autocast():
            return function(*inputs)
    return run
