"""A model of the same shape with the weights that training begins with: what comes of the architecture alone."""

from __future__ import annotations

import copy
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ...data.errors import UserError
from . import anatomy
from .subject import Subject

_MADE: WeakKeyDictionary[nn.Module, Subject] = WeakKeyDictionary()


def random_twin(subject: Subject) -> Subject:
    """The same configuration and tokenizer, weights as the family initialises them, drawn once with seed 0 and kept for
    the subject's life. UserError: a model that cannot be built from its configuration alone, such as packed weights.
    """
    if subject.model not in _MADE:
        _MADE[subject.model] = _built(subject)
    return _MADE[subject.model]


def _built(subject: Subject) -> Subject:
    kind, config = type(subject.model), copy.deepcopy(subject.model.config)
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"{subject.name} has packed weights: a twin with random weights needs a model without --quantize"
        )
    try:
        # The drawing is the same on every device, and no other random number of the run is moved by it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = kind._from_config(config, dtype=subject.dtype, attn_implementation="eager").to(subject.device)
    except Exception as error:
        raise UserError(f"no twin of {subject.name} with random weights: {anatomy.first_line(error)}") from error
    return Subject(model, subject.processor, name=f"{subject.name} with random weights")
