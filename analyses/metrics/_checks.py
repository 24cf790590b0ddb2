"""What every metric asks of its arguments: a condition that does not hold is a ValueError of one line."""

import torch
from torch import Tensor

NAN = float("nan")


def widen(x: Tensor) -> Tensor:
    """float32 for everything below it, so that sums of half-precision numbers are right."""
    return x if x.dtype == torch.float64 else x.float()


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_shape(name: str, x: Tensor, *shape: int) -> None:
    require(tuple(x.shape) == shape, f"{name} has shape {tuple(x.shape)}, expected {shape}")


def require_mask(name: str, x: Tensor, *shape: int) -> None:
    require_shape(name, x, *shape)
    require(x.dtype == torch.bool, f"{name} has dtype {x.dtype}, expected bool: use .bool()")


def require_pattern(pattern: Tensor) -> tuple[int, int, int, int]:
    require(pattern.ndim == 4, f"pattern has shape {tuple(pattern.shape)}, expected [b, h, q, k]")
    b, h, q, k = pattern.shape
    require(b > 0, "pattern holds no examples")
    return b, h, q, k


def require_inside(ids: Tensor, vocab: int) -> None:
    require(bool(((ids >= 0) & (ids < vocab)).all()), f"ids are not all in 0…{vocab - 1}")
