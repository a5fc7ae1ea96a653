"""Bodies: several module trees over the same weights, each with hooks of its own.

While an engine runs a model in one thread, nothing else may attach hooks to it. A second body costs no memory for
weights, and a plan attached to it leaves the first alone.
"""

import copy
from itertools import chain

from transformers import PreTrainedModel


def another_body(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model whose parameters and buffers are the same tensors. Make it before hooks are attached."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)
