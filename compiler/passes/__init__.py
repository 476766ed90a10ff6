"""The passes: each a function `Graph -> Graph` that gives the same object back when it changed nothing."""
from .bring import bring
from .channels_last import channels_last
from .cse import cse
from .cut import Cut, Segment, cut, repeated
from .dce import dce
from .decompose import decompose
from .derive import derive
from .fast_random import fast_random
from .fold import fold
from .gradient import Joint, gradient
from .join import join
from .partition import Split, partition
from .restrict import restrict
from .roll import roll
from .simplify import drop_detach, simplify
from .through import Through, closed, through
