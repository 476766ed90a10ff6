# forward
"""running_extremes"""
import triton
import triton.language as tl


@triton.jit
def combine_latest_max(a, b):
    return tl.where((b >= a) | (b != b), b, a)


@triton.jit
def combine_latest_min(a, b):
    return tl.where((b <= a) | (b != b), b, a)


@triton.jit
def combine_latest_argmax(a, i, b, j):
    later = tl.where((a == b) | ((a != a) & (b != b)), j > i, (b > a) | (b != b))
    return tl.where(later, b, a), tl.where(later, j, i)


@triton.jit
def cummax_values_cummax_places(in_x, out_item_0, out_item_1, RBLOCK: tl.constexpr):
    # item_0, item_1: i0 < 64, i1 < 1024 reduced
    i0 = tl.program_id(0)
    i1 = tl.arange(0, RBLOCK)
    x = tl.load(in_x + i0 * 1024 + i1)
    # triton_programs.py:92 part of cummax
    item_0 = tl.associative_scan(x, 0, combine_latest_max)
    item_1_best, item_1 = tl.associative_scan((x, tl.broadcast_to(i1.to(tl.int64), (RBLOCK,))), 0, combine_latest_argmax)
    tl.store(out_item_0 + i0 * 1024 + i1, item_0)
    tl.store(out_item_1 + i0 * 1024 + i1, item_1)


@triton.jit
def cummin_values(in_x, out_item_2, XBLOCK: tl.constexpr, RBLOCK: tl.constexpr):
    # item_2: i0 < 1024, i1 < 64 reduced
    i0 = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)[:, None]
    item_2_part = tl.full((XBLOCK, 1), float("inf"), tl.float32)
    for i1_start in range(0, 64, RBLOCK):
        i1 = i1_start + tl.arange(0, RBLOCK)[None, :]
        x = tl.load(in_x + i1 * 1024 + i0)
        # triton_programs.py:92 part of cummin
        item_2 = tl.associative_scan(x, 1, combine_latest_min)
        item_2 = combine_latest_min(item_2_part, item_2)
        item_2_part = tl.reduce(tl.where(i1 == i1_start + RBLOCK - 1, item_2, float("inf")), 1, combine_latest_min, keep_dims=True)
        tl.store(out_item_2 + i1 * 1024 + i0, item_2)


def running_extremes_0(slot_0, slot_1, slot_2, slot_3, **options):
    cummax_values_cummax_places[(64,)](slot_0, slot_1, slot_2, RBLOCK=1024, num_warps=8, **options)
    cummin_values[(16,)](slot_0, slot_3, XBLOCK=64, RBLOCK=32, num_warps=8, **options)
    return 0
