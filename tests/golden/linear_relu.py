"""matmul_add_relu"""
import triton
import triton.language as tl


@triton.jit
def matmul_add_relu(in_x0_0, in_x1_0, in_x2_0, out_relu_0,
        YBLOCK: tl.constexpr, XBLOCK: tl.constexpr, RBLOCK: tl.constexpr, GROUP: tl.constexpr):
    # matmul_0, add_0, relu_0: 1 x [1024, 768] @ [768, 3072]
    tile = tl.program_id(0)
    band = tile // (GROUP * 24)
    first = band * GROUP
    height = tl.minimum(8 - first, GROUP)
    inside = tile % (GROUP * 24)
    i1 = (first + inside % height) * YBLOCK + tl.arange(0, YBLOCK)[:, None]
    i2 = (inside // height) * XBLOCK + tl.arange(0, XBLOCK)[None, :]
    total = tl.full((YBLOCK, XBLOCK), 0.0, tl.float32)
    for k_start in range(0, 768, RBLOCK):
        k_row = k_start + tl.arange(0, RBLOCK)[None, :]
        k_column = k_start + tl.arange(0, RBLOCK)[:, None]
        x0_0 = tl.load(in_x0_0 + i1 * 768 + k_row)
        x1_0 = tl.load(in_x1_0 + i2 * 768 + k_column)
        total = tl.dot(x0_0, x1_0, total)
    acc = total.to(tl.bfloat16)
    add_0_cast = acc.to(tl.float32)
    x2_0 = tl.load(in_x2_0 + i2)
    add_0_cast_1 = x2_0.to(tl.float32)
    add_0_add = add_0_cast + add_0_cast_1
    add_0 = add_0_add.to(tl.bfloat16)
    relu_0_cast = add_0.to(tl.float32)
    relu_0_lt = relu_0_cast < 0.0
    relu_0_where = tl.where(relu_0_lt, 0.0, relu_0_cast)
    relu_0 = relu_0_where.to(tl.bfloat16)
    tl.store(out_relu_0 + i1 * 3072 + i2, relu_0)
