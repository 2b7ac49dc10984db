"""Names of the modules of decoder layers: feed-forward networks and attention projections.

Editors look matrices up by role, never by name. :class:`ModuleNames` holds the names that the
models of transformers use; a family whose decoder uses others sets ``module_names`` in its own
file.
"""

from dataclasses import dataclass

__all__ = ["ModuleNames", "NetworkEnds"]


@dataclass(frozen=True, slots=True)
class NetworkEnds:
    """The ends of a layer's feed-forward network, by module paths within the layer.

    Arguments:
        mark: A module that only layers with such a network have.
        first: The module whose input is the network's.
        last: The module whose output is the network's.
    """

    mark: str
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class ModuleNames:
    """Names of modules in the layers of a text decoder.

    Arguments:
        networks: Feed-forward networks: of Llama and its relatives, Llama 4, Kosmos, Nemotron-H
            (whose layers are attention, state space or network, the latter also as experts), OPT.
        containers: Regular expression of the modules, below a layer, whose matrices process every
            token, unlike those of routed experts.
        gate: Gate projections of gated networks.
        up: Projections up to the inner width, those fused with the gate included.
        down: Projections down to the decoder's width, whose output is the network's.
        stacked: Regular expression of the down projections of several experts in one parameter,
            (experts, …).
        query_value: Regular expression of the parameters of query and value projections. Models
            with a projection for each modality have several; in latent attention (DeepSeek-V2)
            they are those that lead out of the latent states; some models have one matrix for
            queries, keys and values.
    """

    networks: tuple[NetworkEnds, ...] = (
        NetworkEnds("mlp", "mlp", "mlp"),
        NetworkEnds("feed_forward", "feed_forward", "feed_forward"),
        NetworkEnds("ffn", "ffn", "ffn"),
        NetworkEnds("mixer.down_proj", "mixer", "mixer"),
        NetworkEnds("mixer.experts", "mixer", "mixer"),
        NetworkEnds("fc2", "fc1", "fc2"),
    )
    containers: str = r"((mlp|feed_forward|ffn|mixer)\.)?(shared_experts?\.)?"
    gate: tuple[str, ...] = ("gate_proj", "w1")
    up: tuple[str, ...] = (
        "up_proj",
        "gate_up_proj",
        "fc1",
        "w3",
        "dense_h_to_4h",
        "pre_expert_proj",
    )
    down: tuple[str, ...] = ("down_proj", "fc2", "w2", "dense_4h_to_h", "post_expert_proj")
    stacked: str = r"(experts\.)?down_proj"
    query_value: str = (
        r"\.(self_attn|mixer)\.(q_proj|v_proj|q_b_proj|kv_b_proj|query_key_value)\.(\w+\.)?weight$"
    )
