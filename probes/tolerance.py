"""How far two ways to the same number may differ, as a share of the tensor's largest value."""

import torch

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
