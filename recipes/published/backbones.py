"""Shapes of the papers' backbones: parameters, and floating-point operations (FLOPs) by part.

A product of matrices (n × k)(k × m) is 2nkm FLOPs; only products are counted. Attention is counted
over all pairs of tokens, as it is computed under a mask. tests/recipes/test_sizes.py counts both on
the real classes.
"""

from dataclasses import dataclass
from typing import Any

__all__ = ["BACKBONES", "Backbone", "Vision"]


@dataclass(frozen=True)
class Vision:
    """Shapes of the vision tower and the connector.

    Arguments:
        parameters: Number of parameters.
        layers: Number of layers that run one after another.
        passes: Passes of tokens through matrices: the number of parameters, the number of tokens,
            and the summed width of the layers in which these tokens attend to each other.
    """

    parameters: int
    layers: int
    passes: tuple[tuple[int, int, int], ...]

    @property
    def flops(self) -> float:
        """FLOPs of one image, without the queries' attention to the tower's tokens (1 %)."""
        total = 0
        for weights, tokens, widths in self.passes:
            total += 2 * weights * tokens + 4 * tokens**2 * widths
        return float(total)


@dataclass(frozen=True)
class Backbone:
    """Shapes of a vision-language model.

    Arguments:
        source: Id on Hugging Face; ``None``: converted from the authors' files
            (docs/how-to/convert.md).
        layers: Number of layers of the decoder.
        width: Hidden size D.
        inner: Size H of the feed-forward network.
        vocabulary: Number of tokens.
        matrices: Number of D × H matrices of the feed-forward network: 3 if it is gated, else 2.
        image_tokens: Tokens per image.
        vision: The vision tower and the connector.
        cached: Whether the hidden states of a whole training fit into common memory.
        biased: Whether the decoder has biases and tied embeddings, as OPT.
        positions: Number of learned positions.
        qkv_biased: Whether queries, keys and values have biases, as in Qwen.
        for_images: Parameters of a layer that image tokens use instead of as many others.
    """

    source: str | None
    layers: int
    width: int
    inner: int
    vocabulary: int
    matrices: int
    image_tokens: int
    vision: Vision
    cached: bool
    biased: bool = False
    positions: int = 0
    qkv_biased: bool = False
    for_images: int = 0

    @property
    def weights(self) -> int:
        """Numbers in the matrices of one layer of the decoder."""
        return 4 * self.width**2 + self.matrices * self.width * self.inner

    @property
    def layer(self) -> int:
        """Parameters of one layer of the decoder."""
        # of attention, network and both norms
        biases = 4 * self.width + self.inner + self.width + 2 * self.width
        others = 3 * self.width * self.qkv_biased + self.for_images
        return self.weights + 2 * self.width + biases * self.biased + others

    @property
    def decoder(self) -> int:
        """Parameters of the text decoder with its embeddings."""
        embeddings = (
            1 if self.biased else 2
        ) * self.vocabulary * self.width + self.positions * self.width
        return self.layers * self.layer + embeddings + (2 if self.biased else 1) * self.width

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return self.decoder + self.vision.parameters

    @property
    def described(self) -> str:
        """Origin and size, for a page."""
        origin = (
            f"`{self.source}`"
            if self.source
            else "A folder made of the authors' files ([how](../../how-to/convert.md))"
        )
        whole = f"{self.parameters / 1e9:.2f} billion parameters"
        return f"{origin}: {whole}, {self.decoder / 1e9:.2f} in the decoder"

    def forward(self, tokens: float, layers: int | None = None) -> float:
        """FLOPs of a row of ``tokens`` through ``layers`` of the decoder; ``None``: all layers."""
        attention = 4 * tokens**2 * self.width
        return (self.layers if layers is None else layers) * (2 * self.weights * tokens + attention)

    def head(self, tokens: float) -> float:
        """FLOPs of the logits of ``tokens``."""
        return 2 * self.width * self.vocabulary * tokens


VIT_G = (39 * (4 * 1408**2 + 2 * 1408 * 6144), 257, 39 * 1408)
Q_FORMER = (
    (12 * 12 * 768**2, 32, 12 * 768),
    (6 * 2 * 1408 * 768, 257, 0),  # keys and values of the tower's tokens
)
VICUNA: dict[str, Any] = {"layers": 32, "width": 4096, "inner": 11008, "matrices": 3}

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
        vision=Vision(1_093_083_136, 51, (VIT_G, *Q_FORMER, (768 * 2560, 32, 0))),
        cached=True,
    ),
    "minigpt4-vicuna-7b": Backbone(
        source=None,
        **VICUNA,
        vocabulary=32001,
        image_tokens=32,
        vision=Vision(1_094_264_320, 51, (VIT_G, *Q_FORMER, (768 * 4096, 32, 0))),
        cached=True,
    ),
    "llava-1.5-7b": Backbone(
        source="llava-hf/llava-1.5-7b-hf",
        **VICUNA,
        vocabulary=32064,
        image_tokens=576,
        vision=Vision(
            324_487_168, 24, ((24 * 12 * 1024**2, 577, 24 * 1024), (1024 * 4096 + 4096**2, 576, 0))
        ),
        cached=False,
    ),
    "mplug-owl2-7b": Backbone(
        source=None,
        **VICUNA,
        vocabulary=32000,
        image_tokens=65,
        vision=Vision(
            385_439_744,
            30,
            (
                (24 * 12 * 1024**2, 1025, 24 * 1024),
                (6 * 2 * 1024**2, 64 + 1025, 0),  # keys and values of the abstractor
                (6 * (2 * 1024**2 + 3 * 1024 * 2816) + 1024 * 4096, 64, 0),
            ),
        ),
        cached=False,
        for_images=2 * 4096**2 + 2 * 4096,
    ),
    "qwen-vl-7b": Backbone(
        source=None,
        **VICUNA,
        vocabulary=151936,
        image_tokens=256,
        vision=Vision(
            1_935_610_624,
            49,
            (
                (48 * (4 * 1664**2 + 2 * 1664 * 8192), 1024, 48 * 1664),
                (1664 * 4096 + 2 * 4096**2, 1024, 0),  # keys and values of the resampler
                (3 * 4096**2, 256, 0),
            ),
        ),
        cached=False,
        qkv_biased=True,
    ),
}
"""BLIP-2: ViT-g of 224 pixels and a Q-Former, OPT-2.7B; MiniGPT-4: the same vision, Vicuna-7B.
LLaVA-1.5: CLIP ViT-L of 336 pixels, Vicuna-7B. mPLUG-Owl2: CLIP ViT-L of 448 pixels, an abstractor,
Llama-2-7B with keys, values and norms of its own for images. Qwen-VL: ViT-bigG of 448 pixels, a
resampler, Qwen-7B."""
