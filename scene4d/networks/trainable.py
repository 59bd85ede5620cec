"""Which parameters of a network train, by regular expressions on their names."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from scene4d.networks.contracts import Module

HALF_TYPES = (torch.bfloat16, torch.float16)


def trainable_parameters(network: Module, patterns: Sequence[str]) -> list[str]:
    """Freezes all parameters whose names match none of the regular expressions.

    A parameter that the network itself has frozen takes no part in its output and stays frozen: several ranks would
    wait for its gradient.

    Parameters that train become float32 if they are half precision, which would swallow small updates; frozen ones
    keep their type. Weights should be loaded after this, so that none of their digits are lost.

    Returns:
        The names of the parameters that train.

    Raises:
        ValueError: A pattern matches no parameter.
    """
    parameters = dict(network.named_parameters())
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in parameters):
            raise ValueError(f"trainable pattern {pattern!r} matches none of {len(parameters)} parameters")
    for name, parameter in parameters.items():
        chosen = parameter.requires_grad and any(re.search(pattern, name) for pattern in patterns)
        parameter.requires_grad_(chosen)
        if chosen and parameter.dtype in HALF_TYPES:
            parameter.data = parameter.data.float()
    return [name for name, parameter in parameters.items() if parameter.requires_grad]
