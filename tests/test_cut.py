"""Cutting a graph into segments: run one after another, they give what the whole gives."""
import pytest
import torch

from smelt.compiler import evaluate, parse, verify
from smelt.compiler.equality import graph_key
from smelt.compiler.passes import cut

GRAPH = """
graph f(%x: f32[3,4], %w: f32[4]) {
  %a = mul(%x, %w)                                       : f32[3,4]
  %t = permute(%a, dims=(1, 0))                          : f32[4,3]{1,4}
  %one = full(shape=(3,), value=1.0, dtype=f32, device=cpu) : f32[3]
  %s = sum(%a, dim=(0, 1), keepdim=False, dtype=None)    : f32[]
  %p = gt(%s, 0)                                         : bool[]
  %b = exp(%t)                                           : f32[4,3]
  %c = add(%b, %one)                                     : f32[4,3]
  %q = max(%c)                                           : f32[]
  %d = mul(%c, %t)                                       : f32[4,3]
  %e = add(%d, %s)                                       : f32[4,3]
  return %e, %a
}
"""


def by_name(graph):
    return {v.name: v for v in (*graph.inputs, *graph.values)}


def run(pieces, whole, inputs):
    """The outputs of the whole, and of every segment what it was given and gave by name."""
    known = dict(zip(whole.inputs, inputs))
    for s in pieces.segments:
        known.update(zip(s.gives, evaluate(s.graph, [known[v] for v in s.takes])))
    return [known[o] for o in pieces.outputs], {v.name: t for v, t in known.items()}


def names(values):
    return {v.name for v in values}


@pytest.mark.parametrize("ends", [(), (0,), (5,), (5, 8), (1, 2, 3, 4, 5, 6, 7, 8, 9), (5, 5, 5), (10,)])
def test_the_segments_give_what_the_whole_gives(ends):
    graph = verify(parse(GRAPH))
    pieces = cut(graph, ends)
    assert len(pieces.segments) == len(ends) + 1
    for s in pieces.segments:
        verify(s.graph)
        assert len(s.graph.inputs) == len(s.takes) and len(s.graph.outputs) == len(s.gives)
    inputs = torch.randn(3, 4), torch.randn(4)
    for ours, theirs in zip(run(pieces, graph, inputs)[0], evaluate(graph, inputs)):
        assert torch.equal(ours, theirs)


def test_what_is_wanted_is_given_by_its_own_segment():
    graph = parse(GRAPH)
    value = by_name(graph)
    pieces = cut(graph, [5, 8], [value["p"], value["q"]])
    assert [names(s.gives) for s in pieces.segments][:2] == [{"a", "s", "p"}, {"c", "q"}]
    _, known = run(pieces, graph, (torch.ones(3, 4), torch.ones(4)))
    assert known["p"].item() is True and known["q"].item() == pytest.approx(torch.e + 1)


def test_views_and_constants_are_made_again_and_not_handed_on():
    pieces = cut(parse(GRAPH), [5])
    first, second = pieces.segments
    assert names(first.gives) == {"a", "s"} and names(second.takes) == {"a", "s"}
    assert {v.op.name for v in second.graph.values} >= {"permute", "full"}


def test_an_output_that_a_later_segment_takes_is_a_copy():
    """Who gets it may write to it before the backward of the later segment reads it."""
    graph = parse(GRAPH)
    pieces = cut(graph, [5])
    _, output = pieces.outputs
    assert output.op.name == "copy" and output not in graph.values and output in pieces.segments[1].gives
    pieces = cut(graph, [10])
    assert pieces.outputs == graph.outputs


def test_values_with_gaps_in_memory_are_handed_on_without():
    graph = parse("""
    graph f(%x: f32[4]) {
      %a = exp(%x) : f32[4]{2}
      %b = neg(%a) : f32[4]
      return %b
    }""")
    pieces = cut(graph, [1])
    assert pieces.segments[0].graph.outputs[0].type.contiguous and pieces.segments[1].graph.inputs[0].type.contiguous


def test_values_that_come_about_between_two_segments():
    graph = parse(GRAPH)
    value = by_name(graph)
    pieces = cut(graph, [5], [value["t"]], apart=[value["b"]])
    first, second = pieces.segments
    assert "b" not in names(first.graph.values) | names(second.graph.values)
    assert "t" in names(first.gives) and "b" in names(second.takes)
    x, w = torch.randn(3, 4), torch.randn(4)
    known = {v: t for v, t in zip(graph.inputs, (x, w))}
    known.update(zip(first.gives, evaluate(first.graph, [known[v] for v in first.takes])))
    known[value["b"]] = known[value["t"]].exp()
    known.update(zip(second.gives, evaluate(second.graph, [known[v] for v in second.takes])))
    for output, theirs in zip(pieces.outputs, evaluate(graph, (x, w))):
        assert torch.equal(known[output], theirs)


def test_random_values_stay_where_they_are():
    graph = parse("""
    graph f(%x: f32[4]) {
      %r = random_fill(target='aten.uniform_.default', args=(), shape=(4,), strides=(1,), dtype=f32, device=cpu) : f32[4]
      %s = random_fill(target='aten.normal_.default', args=(), shape=(4,), strides=(1,), dtype=f32, device=cpu) : f32[4]
      %a = add(%x, %s) : f32[4]
      %b = add(%a, %s) : f32[4]
      return %b
    }""")
    first, second = cut(graph, [3]).segments
    assert [v.name for v in first.graph.values] == ["r", "s", "a"] and names(second.takes) == {"a", "s"}


def test_segments_that_compute_the_same_have_one_key():
    turns = "\n".join(f"%y{k + 1} = mul(%{'x' if k == 0 else f'y{k}'}, 2.0) : f32[3]" for k in range(4))
    pieces = cut(parse(f"graph f(%x: f32[3]) {{\n{turns}\nreturn %y4\n}}"), [1, 2, 3])
    assert len({graph_key(s.graph) for s in pieces.segments}) == 1
    other = parse("graph f(%x: f32[3]) {\n%y = mul(%x, -2.0) : f32[3]\nreturn %y\n}")
    assert graph_key(other) != graph_key(pieces.segments[0].graph)
