"""The op records, a file per family. Importing this package fills the tables in compiler/op.py.

To add an op: write its record in the file of its family. Nothing else has to know.
"""
from . import (activations, arithmetic, batch_norm, convolution, core, creation, gradients, indexing, logic, losses, math, matmul,
               normalization, pooling, random, recurrent, reductions, scans, scatters, shaping, slices, softmax, views)
