# forward
"""gelu_dropout_mask"""
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def normal_cdf(x):
    return 0.5 * (1 + libdevice.erf(x * 0.7071067811865476))


@triton.jit
def add_gelu_mul(in_x, in_bias, in_mask, out_mul_1, XBLOCK: tl.constexpr):
    # add_0, gelu_0, mul_0, mul_1: i0 < 64, i1 < 1024
    x_index = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)
    i1 = x_index % 1024
    x = tl.load(in_x + x_index)
    bias = tl.load(in_bias + i1)
    # triton_programs.py:84
    add_0 = x + bias
    gelu_0_normal_cdf = normal_cdf(add_0)
    gelu_0 = add_0 * gelu_0_normal_cdf
    mask = tl.load(in_mask + x_index)
    mul_0_cast = mask.to(tl.float32)
    mul_0 = gelu_0 * mul_0_cast
    mul_1 = mul_0 * 1.1111112
    tl.store(out_mul_1 + x_index, mul_1)


def gelu_dropout_mask_0(slot_0, slot_1, slot_2, slot_3, **options):
    add_gelu_mul[(64,)](slot_0, slot_1, slot_2, slot_3, XBLOCK=1024, num_warps=4, **options)
    return 0
