"""From a call to a recording, and from a program to later calls.

    symbolic   numbers and sizes that change, and what stands in for them
    guard      when a program fits a call; the state that is guarded, and written again
    observe    what a run does to the world around it
    record     what a run computes, as a pure graph
    run        what later calls do
    api        the decorator, and the programs of a function; modules: compiled modules

Each imports only those above it, and `recording` and `readings`, what a recorded run came to, `casting` and `generators`,
torch's autocast and random state, and `torch_internals`, all that is not public of torch.
"""
