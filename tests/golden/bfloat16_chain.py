# forward
"""bfloat16_chain"""
import triton
import triton.language as tl


@triton.jit
def add_mul_sub(in_x, in_y, out_sub_0, XBLOCK: tl.constexpr):
    # add_0, mul_0, sub_0: i0 < 65536
    i0 = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)
    x = tl.load(in_x + i0)
    # triton_programs.py:72
    add_0_cast = x.to(tl.float32)
    y = tl.load(in_y + i0)
    add_0_cast_1 = y.to(tl.float32)
    add_0_add = add_0_cast + add_0_cast_1
    add_0 = add_0_add.to(tl.bfloat16)
    mul_0_cast = add_0.to(tl.float32)
    mul_0_mul = mul_0_cast * add_0_cast
    mul_0 = mul_0_mul.to(tl.bfloat16)
    sub_0_cast = mul_0.to(tl.float32)
    sub_0_sub = sub_0_cast - add_0_cast_1
    sub_0 = sub_0_sub.to(tl.bfloat16)
    tl.store(out_sub_0 + i0, sub_0)


def bfloat16_chain_0(slot_0, slot_1, slot_2, **options):
    add_mul_sub[(64,)](slot_0, slot_1, slot_2, XBLOCK=1024, num_warps=4, **options)
    return 0
