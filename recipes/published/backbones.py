"""The papers' backbones by their shapes: parameters, and the floating-point operations (FLOPs) of
their parts.

A product of matrices (n × k)(k × m) is 2nkm FLOPs, everything that is none is left out. Attention
is counted over all pairs of tokens, which is what it computes under a mask.
tests/recipes/test_sizes.py counts both on the real classes.
"""

from dataclasses import dataclass
from typing import Any

__all__ = ["BACKBONES", "Backbone", "Vision"]


@dataclass(frozen=True)
class Vision:
    """The tower and what connects it, as ``passes`` of tokens through matrices.

    Of each: how many parameters, over how many tokens, and the sum of the widths of the layers in
    which these tokens attend to each other. ``layers`` run one after another.
    """

    parameters: int
    layers: int
    passes: tuple[tuple[int, int, int], ...]

    @property
    def flops(self) -> float:
        """Of one image; the queries' attention to the tower's tokens is left out, a percent of it."""
        return float(
            sum(
                2 * weights * tokens + 4 * tokens**2 * widths
                for weights, tokens, widths in self.passes
            )
        )


@dataclass(frozen=True)
class Backbone:
    """A vision-language model: its text decoder and its vision.

    ``source`` is its id on Hugging Face, ``None`` where a folder has to be made of the authors'
    files (docs/how-to/convert.md). ``width`` is D, ``inner`` H of the feed-forward network, which has
    ``matrices`` of D × H: 3 if it is gated, 2 if not; ``biased`` is for decoders like OPT, with
    biases, learned ``positions`` and an output embedding that is the input's; ``qkv_biased`` for
    those like Qwen, where queries, keys and values have some. ``for_images`` are parameters of a
    layer that image tokens meet in place of as many others. ``cached`` says whether the hidden
    states of a whole training fit into common memory.
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
        biases = (
            4 * self.width + self.inner + self.width + 2 * self.width
        )  # of attention, network and both norms
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
        """Where it is from and how large, for a page."""
        origin = (
            f"`{self.source}`"
            if self.source
            else "A folder made of the authors' files ([how](../../how-to/convert.md))"
        )
        return f"{origin}: {self.parameters / 1e9:.2f} billion parameters, {self.decoder / 1e9:.2f} in the decoder"

    def forward(self, tokens: float, layers: int | None = None) -> float:
        """FLOPs of a row of ``tokens`` through ``layers`` of the decoder, ``None`` for all."""
        attention = 4 * tokens**2 * self.width
        return (self.layers if layers is None else layers) * (2 * self.weights * tokens + attention)

    def head(self, tokens: float) -> float:
        """FLOPs of the logits of ``tokens``."""
        return 2 * self.width * self.vocabulary * tokens


VIT_G = (39 * (4 * 1408**2 + 2 * 1408 * 6144), 257, 39 * 1408)
Q_FORMER = (
    (12 * 12 * 768**2, 32, 12 * 768),
    (6 * 2 * 1408 * 768, 257, 0),
)  # the second: what it reads of the tower
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
