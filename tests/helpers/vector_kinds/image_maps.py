"""Maps over the image."""

from __future__ import annotations

import torch
from crosslens.analyses import metrics
from torch.nn.functional import max_pool2d


def box_scores(map, box_cells):
    box = metrics.Box(**box_cells)
    scores = metrics.box_scores(map, box)
    largest = max_pool2d(map[None, None], (box.height, box.width), stride=1)[0, 0]
    return {
        "attention_ratio": scores.ratio,
        "share_in_box": scores.share,
        "area_share": scores.area,
        "pointing_hit": scores.hit,
        "iou_at_box_size": scores.iou,
        "auroc": scores.auroc,
        # The posted snippet's slip: maxima of windows in place of sums.
        "ratio_from_window_maxima": largest[box.y, box.x] / largest.mean(),
    }


def relative_attention_crop(attention_question, attention_general, image_size_wh, window):
    relative = metrics.relative_attention(attention_question, attention_general)
    return {"relative": relative, "box_xyxy": metrics.adaptive_crop(relative, image_size_wh, window)}


def carve_fusion(question, general, shape, top_percent, keep, **named):
    contrast = metrics.relative_attention(question, general, named["lambda"])
    fused = metrics.fused_contrast(contrast).reshape(*shape.tolist())
    mask = metrics.top_regions(fused, top_percent, keep)
    box = metrics.bounding_box(mask)
    last = contrast[-1, 0]  # no distribution: its entropy is not bounded
    return {
        "fused": fused,
        "mask": mask.int(),
        "box_xyxy_exclusive": [box.x, box.y, box.x + box.width, box.y + box.height],
        "entropy_renormalised_last_step_layer0": metrics.map_entropy(question[-1, 0]),
        "entropy_of_raw_contrast": -(last * last.log()).sum(),
    }


def colour_complexity(hue, bins):
    return {"colour_complexity": metrics.colour_complexity(hue, bins)}


def gaze_shift(attention, content_words, alpha):
    gaze = metrics.gaze_shift(attention, content_words, alpha)
    return {"mean_shift": gaze.shift, "saliency_01": gaze.saliency, "multiplier": gaze.multiplier}


def grad_attention(attention_row, v, grad_z):
    return {
        "gradient": metrics.pattern_gradient(attention_row, v, grad_z),
        "map": metrics.gradient_attention(attention_row, v, grad_z),
    }


def localization_heads(map, binarise, attention_sums):
    positive = (map - map.mean()).clamp_min(0.0) > binarise
    head = metrics.elbow(attention_sums)
    return {
        "spatial_entropy": metrics.spatial_entropy(map, binarise),
        "components": metrics.label_regions(positive, diagonal=True)[1],
        "spatial_entropy_renormalised": metrics.spatial_entropy(map, binarise, renormalized=True),
        "bottom_row_full": bool(positive[-1].all()),
        "elbow_head": head,
        "kept_by_sum": (attention_sums >= attention_sums[head]).nonzero()[:, 0],
        "kept_by_released_slip": list(range(head, len(attention_sums))),  # an index taken for a sum
    }


def tag_map(attention, top_heads, shape, threshold):
    grounded = metrics.grounded_map(attention, top_heads)
    values = grounded.map.reshape(*shape.tolist())
    boxes = metrics.region_boxes(values, threshold)
    return {
        "heads_per_token": grounded.heads,
        "map": values,
        "boxes_row_col_inclusive": [
            [[box.y, box.x, box.y + box.height - 1, box.x + box.width - 1], value] for box, value in boxes
        ],
    }


def token_activation(tokens, mask):
    values = {}
    for name, activation in (
        ("magnitude", metrics.token_magnitude(tokens)),
        ("frequency", metrics.token_phase(tokens)),
    ):
        ious = metrics.iou_by_threshold(activation, mask.bool())
        values |= {name: activation, f"{name}_iou_by_threshold": ious, f"{name}_iou_best_threshold": ious.max()}
    return values


def token_activation_map(image_states, context_states, unembedding, context_ids, target_id, shape):
    token_map = metrics.token_activation_map(image_states, context_states, context_ids, target_id, unembedding)
    grid = metrics.scale_to_one(token_map.cleaned).reshape(*shape.tolist())
    return {**token_map._asdict(), "filtered_after_minmax": metrics.rank_filter(grid)}


def vit_block_stats(attention, norm_residual, norm_update):
    ratios = metrics.update_ratio(norm_update, norm_residual)
    return {
        **metrics.block_statistics(attention)._asdict(),
        "cls_update_ratio": ratios[0],
        "patch_update_ratio_mean": ratios[1:].mean(),
    }


def modality_interaction(logits_full, logits_no_image, logits_no_text, logits_neither, min_variance, beta):
    guidance = metrics.modality_interaction(
        logits_full, logits_no_image, logits_no_text, logits_neither, min_variance=min_variance, beta=beta
    )
    return {
        "interaction": guidance.interaction,
        "variance_unbiased": guidance.variance,
        "guided_logits": guidance.guided,
        "kept": torch.isfinite(guidance.guided),
    }


def attention_vs_saliency(attention, occluded, kl):
    saliency = metrics.occlusion_saliency(kl, occluded.bool())
    mean = attention.mean(0)
    heads = metrics.correlation(attention.flatten(1), saliency.flatten().expand(len(attention), -1))
    return {
        "saliency": saliency,
        "r_per_head": heads,
        "r_of_mean_map": metrics.correlation(mean.flatten(), saliency.flatten()),
        "mean_of_r": heads.mean(),
        "r_per_row_of_mean_map": metrics.correlation(mean, saliency),
    }
