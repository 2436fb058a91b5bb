"""Models and optimizers inside the wrappers that other libraries put around them."""

from __future__ import annotations

import torch

MODELS = ("_orig_mod", "module", "_module")
"""Where a compiled model, one of (distributed) data parallel and one of Opacus keep the user's."""

OPTIMIZERS = ("optimizer", "_optimizer", "original_optimizer")
"""Where accelerate, Lightning and Opacus keep the user's."""


def plain_model(model: object) -> object:
    """The user's own model. A module of the user's that happens to have a part named ``module`` is not unwrapped: only
    one that has nothing beside it is a wrapper.

    >>> inner = torch.nn.Linear(1, 1)
    >>> plain_model(torch.nn.DataParallel(inner)) is inner
    True
    """
    while isinstance(model, torch.nn.Module):
        parts = dict(model.named_children())
        inner = next((parts[name] for name in MODELS if list(parts) == [name]), None)
        own = (*model.parameters(recurse=False), *model.buffers(recurse=False))
        if inner is None or own:
            break
        model = inner
    return model


def plain_optimizer(optimizer: object) -> object:
    """The optimizer whose every call is one real step."""
    while True:
        inner = (getattr(optimizer, name, None) for name in OPTIMIZERS)
        found = next((one for one in inner if isinstance(one, torch.optim.Optimizer) and one is not optimizer), None)
        if found is None:
            return optimizer
        optimizer = found
