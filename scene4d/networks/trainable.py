"""Which parameters of a network train, by regular expressions on their names."""

from __future__ import annotations

import re

from torch import nn


def trainable_parameters(module: nn.Module, patterns: list[str]) -> list[str]:
    """Freezes all parameters whose names match none of the regular expressions.

    Returns:
        The names that train.

    Raises:
        ValueError: A pattern matches no parameter.
    """
    names = [name for name, _ in module.named_parameters()]
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(f"trainable pattern {pattern!r} matches none of {len(names)} parameters")
    chosen = []
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(any(re.search(pattern, name) for pattern in patterns))
        if parameter.requires_grad:
            chosen.append(name)
    return chosen
