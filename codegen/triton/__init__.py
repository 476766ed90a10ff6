"""The Triton backend: loop IR in, one Python module of Triton kernels out.

printer.py   a whole source: kernels, and the functions that launch them one after another
tiling.py    one kernel: what a program of the grid computes, and with how many warps
kernel.py    one kernel's text: indices, masks, reductions in one tile or in a loop over tiles
body.py      statements on tiles; scalars.py is the table from scalar op to Triton text
matmul.py    the matrix product as a kernel, with what follows it
trials.py    programs of one kernel each, to be timed against each other
helpers.py   small Triton functions that a source uses
"""
