"""The largest tensor that is made meanwhile."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Largest(TorchDispatchMode):
    """bytes: of the largest tensor that an operation in the block gave with memory of its own; views count nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.known = 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = func(*args, **kwargs or {})
        own = [t.untyped_storage() for t in tree_leaves(made) if isinstance(t, Tensor)]
        self.bytes = max([self.bytes, *(s.nbytes() for s in own if s.data_ptr() not in given)])
        return made
