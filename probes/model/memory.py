"""What the C library does with freed memory."""

from functools import cache

import torch


@cache
def keep_freed_memory() -> None:
    """glibc gives the pages of freed blocks back, and asks for them again in every layer; no longer once a block as
    large as this one was freed. For the whole process and for good, hence once; nothing is touched, so it is free.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)
