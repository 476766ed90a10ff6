"""The IR, the op records, and the passes over graphs."""
from . import ops  # fills the table of op records
from .builder import Builder, rewrite
from .evaluate import evaluate
from .instantiate import instantiate
from .ir import Graph, NumberType, ObjectType, Origin, TensorType, TupleType, Value
from .text import parse, show
from .verify import verify
