"""Recording: the decorator, the observers, guards, and the bridge to autograd."""
