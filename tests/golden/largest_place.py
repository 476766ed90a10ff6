# forward
"""largest_place"""
import triton
import triton.language as tl


@triton.jit
def combine_max(a, b):
    return tl.maximum(a, b, tl.PropagateNan.ALL)


@triton.jit
def combine_argmax(a, i, b, j):
    better = (a > b) | ((a != a) & (b == b))
    alike = (a == b) | ((a != a) & (b != b))
    first = better | (alike & (i < j))
    return tl.where(first, a, b), tl.where(first, i, j)


@triton.jit
def argmax_amax(in_x, out_argmax_0, out_amax_0, RBLOCK: tl.constexpr):
    # argmax_0, amax_0: i0 < 64, i1 < 1024 reduced
    i0 = tl.program_id(0)
    i1 = tl.arange(0, RBLOCK)
    x = tl.load(in_x + i0 * 1024 + i1)
    # triton_programs.py:68
    _, argmax_0 = tl.reduce((x, tl.broadcast_to(i1.to(tl.int64), (RBLOCK,))), None, combine_argmax)
    amax_0 = tl.reduce(x, None, combine_max)
    tl.store(out_argmax_0 + i0, argmax_0)
    tl.store(out_amax_0 + i0, amax_0)


def largest_place_0(slot_0, slot_1, slot_2, **options):
    argmax_amax[(64,)](slot_0, slot_1, slot_2, RBLOCK=1024, num_warps=4, **options)
    return 0
