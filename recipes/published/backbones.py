"""The papers' backbones by their shapes: parameters, and the floating-point operations (FLOPs) of their parts.

A product of matrices (n × k)(k × m) is 2nkm FLOPs, everything that is none is left out. Attention is counted over all
pairs of tokens, which is what it computes under a mask.
"""

from dataclasses import dataclass

__all__ = ["BACKBONES", "Backbone", "Vision"]


@dataclass(frozen=True)
class Vision:
    """The tower and what connects it, as ``passes``: (parameters in matrices, tokens they run over) of each part."""

    parameters: int
    passes: tuple[tuple[int, int], ...]

    @property
    def flops(self) -> float:
        """Of one image; attention is left out, a few percent of it."""
        return float(sum(2 * weights * tokens for weights, tokens in self.passes))


@dataclass(frozen=True)
class Backbone:
    """A vision-language model: its ``source`` on Hugging Face, its text decoder and its vision.

    ``width`` is D, ``inner`` H of the feed-forward network, which has ``matrices`` of D × H: 3 if it is gated, 2 if
    not; ``biased`` is for decoders like OPT, with biases, learned ``positions`` and an output embedding that is the
    input's. ``cached`` says whether the hidden states of a whole training fit into common memory.
    """

    source: str
    layers: int
    width: int
    inner: int
    vocabulary: int
    matrices: int
    biased: bool
    positions: int
    image_tokens: int
    vision: Vision
    cached: bool

    @property
    def weights(self) -> int:
        """Numbers in the matrices of one layer of the decoder."""
        return 4 * self.width**2 + self.matrices * self.width * self.inner

    @property
    def layer(self) -> int:
        """Parameters of one layer of the decoder."""
        biases = 4 * self.width + self.inner + self.width + 2 * self.width  # of attention, network and both norms
        return self.weights + 2 * self.width + biases * self.biased

    @property
    def decoder(self) -> int:
        """Parameters of the text decoder with its embeddings."""
        embeddings = (1 if self.biased else 2) * self.vocabulary * self.width + self.positions * self.width
        return self.layers * self.layer + embeddings + (2 if self.biased else 1) * self.width

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return self.decoder + self.vision.parameters

    def forward(self, tokens: float, layers: int | None = None) -> float:
        """FLOPs of a row of ``tokens`` through ``layers`` of the decoder, ``None`` for all."""
        attention = 4 * tokens**2 * self.width
        return (self.layers if layers is None else layers) * (2 * self.weights * tokens + attention)

    def head(self, tokens: float) -> float:
        """FLOPs of the logits of ``tokens``."""
        return 2 * self.width * self.vocabulary * tokens


BACKBONES = {
    "blip2-opt-2.7b": Backbone(
        source="Salesforce/blip2-opt-2.7b",
        layers=32,
        width=2560,
        inner=10240,
        vocabulary=50304,
        matrices=2,
        biased=True,
        positions=2050,
        image_tokens=32,
        vision=Vision(1_093_083_136, ((39 * (4 * 1408**2 + 2 * 1408 * 6144), 257), (12 * 12 * 768**2, 32))),
        cached=True,
    ),
    "llava-1.5-7b": Backbone(
        source="llava-hf/llava-1.5-7b-hf",
        layers=32,
        width=4096,
        inner=11008,
        vocabulary=32064,
        matrices=3,
        biased=False,
        positions=0,
        image_tokens=576,
        vision=Vision(324_487_168, ((24 * 12 * 1024**2, 577), (1024 * 4096 + 4096**2, 576))),
        cached=False,
    ),
}
"""BLIP-2: ViT-g of 224 pixels and a Q-Former, OPT-2.7B. LLaVA-1.5: CLIP ViT-L of 336 pixels, Vicuna-7B."""
