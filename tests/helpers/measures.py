"""Measurements of a model, with a patch or without."""

import torch
from torch.nn import functional as F

from liveedit.editors.common.branch import Recorder


@torch.no_grad()
def logits_under(patch, vlm, queries):
    """The logits of queries under a patch."""
    with vlm.patched(patch):
        return vlm.logits(vlm.encode(queries))


@torch.no_grad()
def fired_under(patch, vlm, queries):
    """The edits that fire for each query, with their weights."""
    with vlm.patched(patch):
        batch = vlm.encode(queries)
        vlm.logits(batch)
    return batch.fired_by(patch)


@torch.no_grad()
def states_under(patch, vlm, queries, site):
    """The states at a site under a patch, and the encoded queries."""
    batch = vlm.encode(queries)
    record = Recorder(site)
    with vlm.patched(record), vlm.patched(patch):  # the later one acts first
        vlm.logits(batch)
    return record.seen[site], batch


@torch.no_grad()
def target_loss(vlm, queries):
    """The mean negative log-likelihood of the targets' tokens, in nats."""
    batch = vlm.encode(queries)
    logits = vlm.logits(batch)[batch.answer_positions()].float()
    return float(F.cross_entropy(logits, batch.answer_tokens()))


@torch.no_grad()
def predicts_targets(vlm, queries):
    """Whether every token of the targets is the likeliest."""
    batch = vlm.encode(queries)
    predicted = vlm.logits(batch).argmax(-1)[batch.answer_positions()]
    return predicted.tolist() == batch.labels[batch.labels >= 0].tolist()


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Snapshot:
    """Every parameter of a model with a copy of its bits, and every hook."""

    def __init__(self, model):
        self.model = model
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.values = {name: value.clone() for name, value in self.parameters.items()}
        self.hooks = self.list_hooks()

    def list_hooks(self):
        """The hooks of each module, by kind."""
        found = {}
        for name, module in self.model.named_modules():
            found[name] = [list(getattr(module, kind)) for kind in HOOKS]
        return found

    def assert_unchanged(self):
        """Require the same parameters, of the same bits, without gradients, and the same hooks."""
        now = dict(self.model.named_parameters(remove_duplicate=False))
        assert now.keys() == self.parameters.keys()
        for name, parameter in now.items():
            assert parameter is self.parameters[name], name
            assert torch.equal(parameter, self.values[name]), name
            assert not parameter.requires_grad, name
        assert self.list_hooks() == self.hooks
