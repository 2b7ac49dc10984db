"""What :mod:`liveedit.models.shrink` cannot tell by the names of settings: special tokens, and particulars by type."""

from typing import Any

__all__ = ["MARKS", "NAMED", "PARTICULARS"]

NAMED = {
    "image_token": "<image>",
    "video_token": "<video>",
    "audio_token": "<audio>",
    "boi_token": "<boi>",
    "eoi_token": "<eoi>",
    "boa_token": "<boa>",
    "eoa_token": "<eoa>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "video_start_token": "<|video_start|>",
    "video_end_token": "<|video_end|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<image>",
    "image_break_token": "[IMG_BREAK]",
    "image_boundary_token": "<fake_token_around_image>",
    "img_line_break_token": "<|IMG_LINE_BREAK|>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
"""Special tokens by the name that processors ask the tokenizer for."""

MARKS = [
    *("<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
    *(
        "<|image_pad|>",
        "<|video_pad|>",
        "<|imgpad|>",
        "<imgpad>",
        "<|media_pad|>",
        "<|patch|>",
        "<|image|>",
        "<|video|>",
    ),
    *("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE_GLOBAL", "<|VISION_START|>", "<|VISION_END|>"),
    *("[IMG]", "[IMG_END]", "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<im_low>", "<low_res_im_start>"),
    *("<|tile_x_separator|>", "<|tile_y_separator|>", "<|img_thumbnail|>", "<IMG_START>", "<IMG_END>", "<IMG_COL>"),
    *("<IMG_ROW>", "<IMG_GRID>", "<IMG_ATOM>", "<|begin_of_image|>", "<|end_of_image|>", "<patch_newline>"),
    *("<frame_start>", "<frame_end>", "<|audio_comp_pad|>", "<|python_tag|>"),
]
"""Special tokens that processors name themselves."""

PARTICULARS: dict[str, dict[str, Any]] = {}
"""By type: settings of ``config``, of the ``pictures`` processor and of the ``processor``, and classes in their place."""
