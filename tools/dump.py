"""Writing a compilation to files: every stage for SMELT_DUMP, and a reproducer for a wrong result."""
from __future__ import annotations

import base64
import io
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Mapping, Sequence

import torch

from .. import config
from ..compiler.text import show
from ..errors import SmeltWarning
from ..frontend.generators import drawing_from, random_state, set_random_state

INLINE_BYTES = 1 << 18  # inputs up to this size stand inside the reproducer

#: Of the files that sources are written to, by language.
SUFFIXES = {"c": ".c", "triton": "_triton.py"}

_RUN = '''"""Run this dump: the recording through today's smelt, against the reference evaluator.

{about}
"""
from pathlib import Path

import torch
from smelt import pipeline
from smelt.compiler import compare, evaluate, parse

here = Path(__file__).parent
graph = parse({graph})
{inputs}
{run}'''
_FORWARD = '''

def seeded(run, *args):
    """What `run` gives; all sides draw the same random numbers."""
    torch.manual_seed(0)
    return run(*args)


ours = seeded(pipeline.compile_graph(graph, {backend!r}), *inputs)
found = compare.compare(ours, seeded(evaluate, graph, inputs),
                        lambda wanted: seeded(compare.evaluate_precisely, graph, inputs, wanted),
                        lambda *which: seeded(compare.evaluate_noisily, graph, inputs, *which))
print("equal to the reference" if found is None else f"DIFFERENT: {{found}}")
'''
_BACKWARD = '''
torch.manual_seed(0)
found = pipeline.check_gradients(graph, inputs, {wrt}, grads, {backend!r})
print(f"DIFFERENT: {{found}}" if found else "gradients equal to the reference's")
'''


def write(compilation, folder: str | os.PathLike) -> Path | None:
    """Write every stage of a compilation under `folder`, in a folder of its own; gives that folder.

    Where nothing can be written there, a warning says so.
    """
    try:
        return _write_stages(compilation, Path(folder))
    except OSError as e:
        warnings.warn(f"smelt cannot write its stages to {folder} (config.dump): {e}", SmeltWarning, stacklevel=2)
        return None


def _write_stages(compilation, base: Path) -> Path:
    base.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "_", compilation.recording.graph.name) or "program"
    number = 0
    while True:  # atomic, so that threads and processes never share one
        home = base / f"{name}-{number}"
        try:
            home.mkdir()
            break
        except FileExistsError:
            number += 1
    for n, (stage, graph) in enumerate(compilation.graphs.items(), 1):
        (home / f"{n:02}-{stage}.txt").write_text(show(graph) + "\n")
    for stage, loaded in compilation.programs.items():
        (home / f"{stage}{SUFFIXES[loaded.program.language]}").write_text(loaded.program.source)
        (home / f"{stage}_host.py").write_text(loaded.host_source)
    graph = compilation.recording.graph
    (home / "run.py").write_text(_RUN.format(about=f"Program {graph.name}, on random inputs.",
                                             graph='(here / "01-recorded.txt").read_text()',
                                             inputs=f"inputs = [\n{_random_inputs(graph)}]",
                                             run=_FORWARD.format(backend=compilation.backend.language)))
    return home


def reproducer(compilation, mismatch, stage: str, inputs: Sequence[torch.Tensor], grads: Mapping[int, torch.Tensor]) -> str:
    """Write a file that shows a wrong result again; gives the text of the warning. `grads`: in a backward pass, by output
    the gradients that arrived."""
    graph = compilation.recording.graph
    where = locate(compilation, inputs) if stage == "forward" else ""
    about = f"{graph.name}, {stage}: {mismatch}{where}"
    try:
        path = _write_reproducer(compilation, about, inputs, grads)
        seen = f"a reproducer is in {path}"
    except OSError as e:
        seen = f"no reproducer could be written: {e}"
    return f"smelt: {about}. This is a defect of smelt: the function runs eagerly from now on; {seen}"


def locate(compilation, inputs: Sequence[torch.Tensor]) -> str:
    """The first value of the graph that comes out wrong when every value is an output: its name and line."""
    from ..compiler.compare import compare
    from ..compiler.evaluate import evaluate
    from ..compiler.ir import Graph, TensorType
    graph = compilation.graphs["forward"]
    shown = tuple(v for v in graph.values if isinstance(v.type, TensorType))
    whole = Graph(graph.name, graph.inputs, graph.values, shown)
    try:
        with drawing_from(state := random_state()):  # the user's random numbers are not to be used up
            ours = compilation.run_graph(whole, inputs)
            set_random_state(state)
            reference = evaluate(whole, inputs)
    except Exception as e:  # the defect may show as an error here; the report must not hide the mismatch
        return f" (looking for its place failed: {type(e).__name__}: {e})"
    for v, a, b in zip(shown, ours, reference):
        if (found := compare([a], [b])) is not None:
            return (f"; first wrong value: %{v.name} = {v.op.name} ({v.origin}), element {found.index}: {found.ours}, "
                    f"should be {found.reference}")
    return "; every value is right when computed on its own: the fault is in how they are fused"


def _write_reproducer(compilation, about: str, inputs: Sequence[torch.Tensor], grads: Mapping[int, torch.Tensor]) -> Path:
    graph, backend = compilation.recording.graph, compilation.backend.language
    folder = Path(config.report_dir)
    folder.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix=f"{graph.name}-", dir=folder))
    packed = io.BytesIO()
    torch.save(([t.detach() for t in inputs], {k: g.detach() for k, g in grads.items()}), packed)
    if packed.tell() <= INLINE_BYTES:
        text = base64.b64encode(packed.getvalue()).decode()
        load = f"import base64, io\ninputs, grads = torch.load(io.BytesIO(base64.b64decode('{text}')))"
    else:
        (home / "inputs.pt").write_bytes(packed.getvalue())
        load = 'inputs, grads = torch.load(here / "inputs.pt")'
    template = _BACKWARD if grads else _FORWARD
    run = template.format(backend=backend, wrt=compilation.recording.differentiated)
    path = home / "run.py"
    path.write_text(_RUN.format(about=about, graph=f"r'''{show(graph)}'''", inputs=load, run=run))
    return path


def _random_inputs(graph) -> str:
    lines = []
    for v in graph.inputs:
        t = v.type
        inexact = t.dtype.is_floating_point or t.dtype.is_complex
        made = f"torch.{'randn(' if inexact else 'randint(2, '}{tuple(t.shape)}).to({t.dtype})"
        if not t.contiguous:
            made = f"torch.empty_strided({tuple(t.shape)}, {tuple(t.strides)}, dtype={t.dtype}).copy_({made})"
        lines.append(f"    {made},  # {v.name}\n")
    return "".join(lines)
