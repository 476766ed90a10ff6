# forward
"""swiglu_forward"""
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def silu_mul(in_gate, in_x, out_mul_0, XBLOCK: tl.constexpr):
    # silu_0, mul_0: i0 < 65536
    i0 = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)
    gate = tl.load(in_gate + i0)
    # triton_programs.py:76
    silu_0_neg = -gate
    silu_0_exp = libdevice.exp(silu_0_neg)
    silu_0_add = silu_0_exp + 1.0
    silu_0 = tl.div_rn(gate, silu_0_add)
    x = tl.load(in_x + i0)
    mul_0 = silu_0 * x
    tl.store(out_mul_0 + i0, mul_0)


def swiglu_forward_0(slot_1, slot_0, slot_2, **options):
    silu_mul[(64,)](slot_1, slot_0, slot_2, XBLOCK=1024, num_warps=4, **options)
    return 0


# backward
"""swiglu_backward"""
import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def silu_mul_silu_backward(in_gate, in_grad_mul_0_0, in_x, out_mul_2, out_silu_backward_0, XBLOCK: tl.constexpr):
    # silu_0, mul_1, mul_2, silu_backward_0: i0 < 65536
    i0 = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)
    gate = tl.load(in_gate + i0)
    # triton_programs.py:76
    silu_0_neg = -gate
    silu_0_exp = libdevice.exp(silu_0_neg)
    silu_0_add = silu_0_exp + 1.0
    silu_0 = tl.div_rn(gate, silu_0_add)
    grad_mul_0_0 = tl.load(in_grad_mul_0_0 + i0)
    x = tl.load(in_x + i0)
    # triton_programs.py:76 grad of mul
    mul_1 = grad_mul_0_0 * x
    mul_2 = grad_mul_0_0 * silu_0
    # triton_programs.py:76 grad of silu
    silu_backward_0_div = tl.div_rn(tl.full((), 1.0, tl.float32), silu_0_add)
    silu_backward_0_mul = mul_1 * silu_backward_0_div
    silu_backward_0_sub = 1.0 - silu_backward_0_div
    silu_backward_0_fma = libdevice.fma(gate, silu_backward_0_sub, tl.full((), 1.0, tl.float32))
    silu_backward_0 = silu_backward_0_mul * silu_backward_0_fma
    # triton_programs.py:76 grad of mul
    tl.store(out_mul_2 + i0, mul_2)
    # triton_programs.py:76 grad of silu
    tl.store(out_silu_backward_0 + i0, silu_backward_0)


def swiglu_backward_0(slot_1, slot_2, slot_0, slot_3, slot_4, **options):
    silu_mul_silu_backward[(64,)](slot_1, slot_2, slot_0, slot_3, slot_4, XBLOCK=1024, num_warps=4, **options)
    return 0
