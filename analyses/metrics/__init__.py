"""Metrics: pure functions on tensors, in the units of the papers; a file a family, every function under `metrics.`.

Letters in shapes: b example, h query head, q query, k key, p position, n row (example, token, image), d width,
vocab vocabulary. `pattern` is attention after the softmax, `mask` is True at real tokens. Positions come from masks,
so left and right padding give the same values. Half-precision input is reduced in float32, float64 stays float64.
A wrong shape or an argument out of range raises ValueError; NaN means "not defined here".
Sources: "-style" in a docstring says that the formula was not read in the paper or its code.
"""

# ruff: noqa: F401
from .activation_maps import TokenMap, iou_by_threshold, rank_filter, token_activation_map, token_magnitude, token_phase
from .alignment import (
    FeatureFit,
    PairwiseCosine,
    Pooled,
    TokenAlignment,
    feature_fit,
    pairwise_cosine,
    query_pooling,
    relation_divergence,
    token_alignment,
    update_ratio,
)
from .attribution import (
    Interaction,
    RouteShares,
    modality_interaction,
    occlusion_saliency,
    route_nearness,
    route_shares,
    strong_routes,
)
from .boxes import Box, BoxScores, adaptive_crop, box_scores, box_sums, map_scores
from .circuits import MIB_SHARES, circuit_areas, edge_auroc, greedy_edges, pruned_edges, top_edges, top_nodes
from .columns import are_hidden, attention_share, column_attention, column_sums, hidden_sinks
from .divergence import head_divergence, reinforced_heads, total_divergence
from .effects import normalized_effect, percent_change, top_heads
from .experts import ExpertUse, expert_use
from .lenses import answer_probability, answer_rank, entropy, kl_divergence, lens_readings, logit_lens
from .localisation import (
    GazeShift,
    GroundedMap,
    elbow,
    fused_contrast,
    gaze_changes,
    gaze_shift,
    gradient_attention,
    grounded_map,
    high_pass,
    map_entropy,
    pattern_gradient,
    pure_gradient,
    relative_attention,
    scale_to_one,
)
from .modality import (
    AroundImage,
    ModalityFlows,
    attended_patches,
    attention_around_image,
    mean_over_queries,
    modality_flows,
    one_hop_focus,
    text_behind_image,
    top_token_overlap,
    visual_heads,
    visual_text_ratio,
    visual_votes,
)
from .nearest import centred_directions, like_states, word_similarity
from .neurons import (
    activation_energy,
    active_neurons,
    channel_removal,
    explanation_score,
    group_entropy,
    head_energy,
    neuron_groups,
    neuron_removal,
    smallest_at,
    specific_neurons,
)
from .periods import period_basis, period_components, period_directions, period_power
from .positions import MixedBases, frequency_use, mix_bases, ranks, rope_waveform, score_by_distance
from .redistribution import (
    SinkColumns,
    calibrate_sinks,
    image_centric,
    nonsink_ratio,
    redistribute_centric,
    redistribute_sinks,
    sink_columns,
)
from .redundancy import (
    Exit,
    UpdateRanks,
    collapse_distance,
    cosine_importance,
    feature_entropy,
    mask_overlap,
    orthogonal_importance,
    relative_distance,
    transfer_entropy,
    update_ranks,
    used_weights,
    visual_exit,
)
from .regions import (
    bounding_box,
    colour_complexity,
    label_regions,
    region_boxes,
    region_masses,
    spatial_entropy,
    top_regions,
)
from .regression import best_output_weights, diagonal_share, diagonal_variation, regression_loss, zero_sum
from .similarity import correlation, cosine, head_jensen_shannon, jensen_shannon, linear_cka, map_cosine, row_cosine
from .sinks import dimension_peaks, energy_share, gap_threshold, massive_dimensions, sink_dimensions, sink_values
from .spans import elastic_ranges, elastic_span, masking_influence, sums_by_distance, triangle_scores
from .spectra import (
    LogMoments,
    Ranks,
    attention_rank,
    effective_rank,
    log_attention_moments,
    log_attention_variance,
    noise_edge,
    noise_threshold,
    participation_ratio,
    spectral_gap,
    spectrum_ranks,
    spectrum_snr,
    stable_rank,
    without_diagonal,
)
from .spread import (
    attention_entropy,
    entropy_of_head_mean,
    head_entropy,
    length_scale,
    middle_heads,
    overloaded_heads,
    row_entropy,
)
from .steering import (
    d_prime,
    difference_of_means,
    edit_heads,
    edit_strength,
    emphasize_keys,
    project_out,
    reweight_keys,
    spread_along,
)
from .structure import (
    TrivialFit,
    concentration,
    first_token_attention,
    fit_trivial,
    head_diversity,
    local_focus,
    trivial_r2,
    trivial_residual,
)
from .visibility import causal_visibility, first_real, uniform_pattern, visible_keys
from .vision import BlockStatistics, block_statistics
from .vocabulary import (
    component_magnitudes,
    filter_components,
    language_counts,
    mean_shares,
    number_basis,
    number_spectrum,
    pooled_shares,
)
from .walks import attention_edges, attention_rollout, hops, reachable_positions, rollout_step
from .weights import (
    Composition,
    Compositions,
    Interference,
    composition,
    compositions,
    cosine_to_ones,
    key_interference,
    positive_eigenvalue_share,
    product_core,
    remove_mean_direction,
    streamed_interference,
    symmetric_share,
    unselectable_keys,
)
