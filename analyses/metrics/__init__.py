"""Metrics: pure functions on tensors, in the units of the papers; a file a family, every function under `metrics.`.

Letters in shapes: b example, h query head, q query, k key, p position, n row (example, token, image), d width,
vocab vocabulary. `pattern` is attention after the softmax, `mask` is True at real tokens. Positions come from masks,
so left and right padding give the same values. Half-precision input is reduced in float32, float64 stays float64.
A wrong shape or an argument out of range raises ValueError; NaN means "not defined here".
Sources: "-style" in a docstring says that the formula was not read in the paper or its code.
"""

# ruff: noqa: F401
from .columns import are_hidden, attention_share, column_attention, column_sums, hidden_sinks
from .divergence import head_divergence, reinforced_heads, total_divergence
from .effects import normalized_effect, percent_change, top_heads
from .lenses import answer_probability, answer_rank, entropy, kl_divergence, lens_readings, logit_lens
from .redistribution import (
    SinkColumns,
    calibrate_sinks,
    image_centric,
    nonsink_ratio,
    redistribute_centric,
    redistribute_sinks,
    sink_columns,
)
from .sinks import dimension_peaks, energy_share, gap_threshold, massive_dimensions, sink_dimensions, sink_values
from .spread import attention_entropy, row_entropy
from .visibility import causal_visibility, first_real, uniform_pattern, visible_keys
