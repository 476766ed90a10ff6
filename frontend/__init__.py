"""Recording: the decorator, the observers, guards, and the bridge to autograd.

The call            api (the decorator), modules (compiled modules), structure (arguments and results), bridge and backward
                    (a program as a call, and as a node of autograd's graph), recording (what a recorded run came to)
What a run computes recorder (every op of it), overloads (ATen ops), functional (aliasing and mutation made pure), gradients
                    (what carries one), differentiating (backward passes inside), custom (autograd.Functions), foreach
What a run reads    observer (state of Python), guards, names (what code can name), places (whose code), effects (what can't
                    be replayed), fetched (state that is another object each time), elements (numbers in tensors)
What a run writes   writes, logs (lists that only grow)
What may change     changing and varying (which numbers and sizes do), symbols and sizes (what stands in for them), building
                    (their way into the graph), host (what guards compute of them), trial (the second recording)
Where it branches   readings (where Python looks at tensors), branches (the tree of paths)
Of torch            torch_internals (what is not public), profiling, origins
"""
