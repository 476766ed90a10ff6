# forward
"""add_transposed"""
import triton
import triton.language as tl


@triton.jit
def add(in_x, in_y, out_add_0, YBLOCK: tl.constexpr, XBLOCK: tl.constexpr):
    # add_0: i0 < 1024, i1 < 1024
    program = tl.program_id(0)
    i0 = (program // 32) * YBLOCK + tl.arange(0, YBLOCK)[:, None]
    i1 = (program % 32) * XBLOCK + tl.arange(0, XBLOCK)[None, :]
    x = tl.load(in_x + i0 * 1024 + i1)
    y = tl.load(in_y + i1 * 1024 + i0)
    # triton_programs.py:60
    add_0 = x + y
    tl.store(out_add_0 + i0 * 1024 + i1, add_0)


def add_transposed_0(slot_0, slot_1, slot_2, **options):
    add[(1024,)](slot_0, slot_1, slot_2, YBLOCK=32, XBLOCK=32, num_warps=4, **options)
    return 0
