"""The op records, a file per family. Importing this package fills the tables in compiler/op.py.

To add an op: write its record in the file of its family. Nothing else has to know.
"""
from . import core, pointwise, reductions, views
