"""What a run needs of memory, told part by part before it begins. All numbers are bytes, and estimates.

Observers keep one layer alive, sweeps what `BUDGET` allows them, recordings and gradients grow with all layers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import psutil
import torch

from ..intervene.float32 import is_half
from ..intervene.readout import BUDGET, mlp_width
from ..model import head
from ..model.attention import SCORES_BUDGET

if TYPE_CHECKING:
    from ..model.subject import Subject


def held(subject: Subject) -> int:
    """What is taken already, where the subject lies: its weights and, on a CPU, the libraries."""
    if subject.device.type == "cuda":
        return torch.cuda.memory_allocated()
    return psutil.Process().memory_info().rss


def free(subject: Subject) -> int:
    """What can be taken yet."""
    return torch.cuda.mem_get_info()[0] if subject.device.type == "cuda" else psutil.virtual_memory().available


def weights(subject: Subject) -> int:
    """Parameters and buffers, each once, as they are kept: packed, or in the subject's dtype."""
    tensors = {t.data_ptr(): t.nbytes for t in (*subject.model.parameters(), *subject.model.buffers())}
    return sum(tensors.values())


def checking(subject: Subject) -> int:
    """The check of the instruments: of half precision float32 copies of the head and of one layer; its small batch."""
    return (
        proofs(subject)
        + 24 * subject.n_layers * (12 * subject.d_model + 3 * mlp_width(subject)) * 4
        + logits(subject, 24, 6)
    )


def forward(subject: Subject, batch: int, positions: int) -> int:
    """One observed layer, with a chunk of patterns in float32 and what is made of them; the last position's logits.

    Per position: residuals, attention and MLP outputs, queries, keys, values, z (ten times d_model) and the MLP's
    inner states.
    """
    one = subject.n_heads * positions**2
    patterns = 6 * 4 * min(batch * one, max(one, SCORES_BUDGET // 8))
    patterns += 4 * batch * one if batch * one <= SCORES_BUDGET else 0  # held for all who ask
    per_position = (10 * subject.d_model + 3 * mlp_width(subject)) * item(subject)
    return batch * positions * per_position + patterns + logits(subject, batch, 1)


def logits(subject: Subject, rows: int, copies: int) -> int:
    """So many rows of the whole vocabulary in float32, in as many copies as are alive together."""
    return copies * 4 * rows * vocabulary(subject)


def recording(subject: Subject, batch: int, positions: int, sites: Collection[str] = ()) -> int:
    """A clean pass with residuals, keys, values and `sites` of all layers, and what positions may read."""
    kept = subject.d_model + 2 * subject.n_kv_heads * subject.d_head
    kept += sum(width(subject, site) for site in sites)
    return subject.n_layers * batch * positions * kept * item(subject) + 4 * batch * positions**2


def variants(subject: Subject, count: int, batch: int, rows: int, positions: int) -> int:
    """A sweep's `count` variants at `rows` positions each, chunk by chunk within the budget, and its proofs."""
    per_row = (12 * subject.d_model + 3 * mlp_width(subject)) * item(subject)
    per_row += (positions + rows) * 12 * subject.n_heads
    return min(count * batch * rows * per_row, max(BUDGET, batch * rows * per_row)) + proofs(subject)


def proofs(subject: Subject) -> int:
    """What edits are proved with in half precision: one layer in float32."""
    return 4 * layer_size(subject) if is_half(subject) else 0


def read_logits(subject: Subject, count: int, batch: int) -> int:
    """The logits of a sweep's variants and their softmax, for measures that are no direction: of what the budget counts
    (four copies), three are alive together.
    """
    return min(logits(subject, count * batch, 3), max(BUDGET * 3 // 4, logits(subject, batch, 3)))


def gradient(subject: Subject, batch: int, positions: int) -> int:
    """A forward with its graph: what the way back needs of every layer, the patterns among it, and the logits."""
    per_position = (14 * subject.d_model + 5 * mlp_width(subject)) * item(subject)
    patterns = 3 * 4 * subject.n_heads * positions
    return subject.n_layers * batch * positions * (per_position + patterns) + logits(subject, batch, 5)


def keys_and_values(subject: Subject, batch: int, positions: int) -> int:
    """The cache of generation."""
    return 2 * subject.n_layers * batch * positions * subject.n_kv_heads * subject.d_head * item(subject)


def width(subject: Subject, site: str) -> int:
    """Numbers of a site at one position of a layer."""
    heads, kv_heads = subject.n_heads * subject.d_head, subject.n_kv_heads * subject.d_head
    own = {"rot_k": kv_heads, "v": kv_heads} | dict.fromkeys(("z", "attn_z", "rot_q"), heads)
    neurons = dict.fromkeys(("mlp_pre", "mlp_pre_linear", "mlp_post"), mlp_width(subject))
    return (own | neurons).get(site, subject.d_model)


def item(subject: Subject) -> int:
    return torch.finfo(subject.dtype).bits // 8


def vocabulary(subject: Subject) -> int:
    """The words that logits are over."""
    return head.vocabulary(subject.model)


def head_size(subject: Subject) -> int:
    """Numbers in the unembedding."""
    return vocabulary(subject) * subject.d_model


def wide_head(subject: Subject) -> int:
    """The unembedding in float32: a copy, where it is kept in less."""
    return 4 * head_size(subject) if is_half(subject) else 0


def layer_size(subject: Subject) -> int:
    """Numbers in the largest layer."""
    return max(sum(p.numel() for p in layer.parameters() if p.is_floating_point()) for layer in subject.layers)
