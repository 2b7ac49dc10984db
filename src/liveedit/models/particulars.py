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
    "image_wrapper_token": "<|image token|>",
    "eof_token": "<|extra_201|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
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
    *("<|IMAGE_PAD|>", "<|VIDEO_PAD|>", "]<]image[>[", "]<]video[>[", "]<]start of image[>[", "]<]end of image[>["),
    *("[IMG]", "[IMG_END]", "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<im_low>", "<low_res_im_start>"),
    *("<|tile_x_separator|>", "<|tile_y_separator|>", "<|img_thumbnail|>", "<IMG_START>", "<IMG_END>", "<IMG_COL>"),
    *("<IMG_ROW>", "<IMG_GRID>", "<IMG_ATOM>", "<|begin_of_image|>", "<|end_of_image|>", "<patch_newline>"),
    "<0x04>",
    *("<frame_start>", "<frame_end>", "<|audio_comp_pad|>", "<|python_tag|>"),
]
"""Special tokens that processors name themselves."""

ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5]}
"""Rotary positions in time, height and width for a head of 32."""
HALF = {"text_config": {"rope_parameters": ROTARY | {"mrope_section": [4, 2, 2], "partial_rotary_factor": 0.5}}}
GLM = {"text_config": {"rope_parameters": ROTARY}}

MERGED = {
    "config": {"insert_layer_id": 0, "vision_config": {"insert_layer_id": 0}},
    "pictures": {"scale_resolution": 64, "max_slice_nums": 1},
}

PARTICULARS: dict[str, dict[str, Any]] = {
    "aria": {
        "config": {
            "vision_config": {"image_size": 980, "patch_size": 140},
            "text_config": {"moe_num_shared_experts": 1},
            "projector_patch_to_query_dict": {49: 4},
        },
        "pictures": {"max_image_size": 980},
        "processor": {"size_conversion": {980: 4}},
    },
    "aya_vision": {
        "pictures": {"crop_to_patches": False},
        "processor": {"img_size": 32, "downsample_factor": 2},
        "tokens": {"image_token_id": "<|IMG_PATCH|>"},
    },
    "cohere2_vision": {"pictures_class": "Cohere2VisionPictures", "pictures": {"patch_size": 2}},
    "cosmos3_omni": {
        "processor_class": "Qwen3VLProcessor",
        "config": {"vision_config": {"deepstack_visual_indexes": [0, 1]}},
    },
    "deepseek_vl": {"processor": {"num_image_tokens": 16}},
    "deepseek_vl_hybrid": {
        "config": {"high_res_vision_config": {"global_attn_indexes": [0, 1]}},
        "pictures": {"high_res_size": {"height": 32, "width": 32}},
        "processor": {"num_image_tokens": 16},
    },
    "dots3_note": {"config": {"text_config": {"num_key_value_heads": 2}}},
    "gemma3": {
        "config": {"mm_tokens_per_image": 4},
        "processor": {"image_seq_length": 4},
        "tokens": {"image_token_id": "<image>"},
    },
    "granite4_vision": {
        "config": {"deepstack_layer_map": [[-1, 1], [-2, 2]]},
        "processor": {"downsample_rate": "1/2"},
    },
    "gemma4": {
        "config": {"text_config": {"vocab_size_per_layer_input": 480, "hidden_size_per_layer_input": 16}},
        "pictures": {"max_soft_tokens": 70},
    },
    "deepseek_ocr2": {
        "config": {
            "text_config": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "num_experts_per_tok": 2},
            "vision_config": {
                "sam_config": {  # whose grid is 64 by 64, since the number of queries is not in the configuration
                    "image_size": 64,
                    "patch_size": 1,
                    "global_attn_indexes": [],
                    "window_size": 8,
                    "hidden_size": 8,
                    "num_hidden_layers": 1,
                    "output_channels": 8,
                    "downsample_channels": [8, 32],
                }
            },
        },
        "pictures": {"size": {"height": 64, "width": 64}, "tile_size": 48},
        "processor": {"patch_size": 1},
    },
    "ernie4_5_vl_moe": {
        "config": {"text_config": {"rope_parameters": ROTARY | {"mrope_section": [6, 6, 4]}}},
    },
    "fast_vlm": {
        "config": {
            "vision_config": {
                "model_type": "resnet",
                "embedding_size": 16,
                "hidden_sizes": [16, 32],
                "depths": [1, 1],
                "layer_type": "basic",
            }
        },
        "pictures_class": "CLIPImageProcessorPil",
        "processor_class": "LlavaProcessor",
        "note": "needs timm; the tiny model has another vision tower",
    },
    "fuyu": {
        "config": {"image_size": 32, "patch_size": 8},
        "pictures_class": "FuyuPictures",
        "spaced": ["|SPEAKER|", "|NEWLINE|"],
    },
    "hunyuan_vl": {
        "config": {"text_config": {"head_dim": 32, "rope_parameters": ROTARY | {"mrope_section": [4, 4, 4, 4]}}}
    },
    "instructblip": {"processor": {"num_query_tokens": 32}},
    "llama4": {
        "config": {
            "vision_config": {
                "intermediate_size": 128,
                "projector_input_dim": 64,
                "projector_output_dim": 64,
                "vision_output_dim": 64,
            }
        },
        "pictures_class": "Llama4Pictures",
        "tokens": {"image_token_id": "<|patch|>"},
    },
    "lfm2_vl": {"pictures_class": "Lfm2VlPictures"},
    "glm46v": {"config": GLM},
    "glm4v": {"config": GLM},
    "glm4v_moe": {"config": HALF, "pictures_class": "Glm4vImageProcessorPil"},
    "glm5_next": {"config": {"text_config": {"num_key_value_heads": 2}}},
    "glm_ocr": {
        "config": HALF,
        "pictures_class": "Glm46VImageProcessorPil",
        "processor_class": "Glm46VProcessor",
    },
    "glmga": {"config": HALF, "processor_class": "Glm46VProcessor"},
    "got_ocr2": {
        "config": {"vision_config": {"image_size": 64, "patch_size": 1, "global_attn_indexes": [], "window_size": 4}},
        "pictures": {"size": {"height": 64, "width": 64}},
    },
    "granite_docling": {"processor": {"image_seq_len": 1}},
    "idefics3": {"processor": {"image_seq_len": 4}},
    "smolvlm": {"processor": {"image_seq_len": 4}, "note": "needs num2words"},
    "internvl": {"processor": {"image_seq_length": 4}},
    "qianfan_ocr": {"processor": {"image_seq_length": 4}},
    "janus": {"processor": {"num_image_tokens": 16}},
    "kosmos-2": {
        "config": {"text_config": {"vocab_size": 512}},
        "processor": {"num_patch_index_tokens": 4},
        "processor_class": "Kosmos2Processor",
        "unk": "</image_id>",
    },
    "kosmos-2.5": {
        "begun": False,
        "config": {"latent_query_num": 16, "vision_config": {"patch_embed_hidden_size": 192, "max_num_patches": 64}},
        "processor": {"num_image_tokens": 16},
        "processor_class": "Kosmos2_5Processor",
        "asks": {"images_kwargs": {"max_patches": 16, "return_tensors": "pt"}},
    },
    "llava_onevision": {"processor": {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}},
    "minicpmv4_6": MERGED,
    "minicpmv4_7": MERGED,
    "minimax_m3_vl": {"pictures_class": "Qwen2VLImageProcessorPil", "note": "needs torchvision"},
    "mistral3": {"processor_class": "LightOnOcrProcessor", "note": "needs torchvision"},
    "molmo2": {
        "config": {"adapter_config": {"vision_feature_layer": [1, 0]}},
        "pictures_class": "Molmo2Pictures",
        "tokens": {"image_patch_id": "<im_patch>", "image_token_id": "<im_patch>"},
    },
    "ovis2": {
        "processor": {"image_seq_length": 16},
        "tokens": {
            "image_token_id": "<IMG_ATOM>",
            "visual_indicator_token_ids": ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"],
        },
    },
    "paddleocr_vl": {"config": GLM},
    "paligemma": {"config": {"projection_dim": 64}, "pictures": {"image_seq_length": 16}},
    "pp_chart2table": {
        "config": {"vision_config": {"patch_size": 2, "global_attn_indexes": [], "window_size": 4}},
        "tokens": {"image_token_index": "<imgpad>"},
    },
    "qwen2_5_omni_thinker": {
        "processor_class": "Qwen2_5OmniProcessor",
        "pictures_class": "Qwen2VLImageProcessorPil",
        "config": GLM,
        "tokens": {"vision_start_token_id": "<|vision_bos|>", "vision_end_token_id": "<|vision_eos|>"},
    },
    "qwen2_5_vl": {"config": GLM},
    "qwen3_omni_moe_thinker": {
        "processor_class": "Qwen3OmniMoeProcessor",
        "pictures_class": "Qwen2VLImageProcessorPil",
        "config": {"vision_config": {"deepstack_visual_indexes": [0, 1]}},
        "tokens": {"vision_start_token_id": "<|vision_bos|>", "vision_end_token_id": "<|vision_eos|>"},
    },
    "qwen3_vl": {"config": {"vision_config": {"deepstack_visual_indexes": [0, 1]}}},
    "qwen3_vl_moe": {
        "config": {"vision_config": {"deepstack_visual_indexes": [0, 1]}},
        "pictures_class": "Qwen2VLImageProcessorPil",
    },
    "video_llava": {
        "pictures": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    },
    "vipllava": {
        "config": {"vision_feature_layers": [-1, -2]},
        "processor": {"num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"},
    },
}
"""By type: settings of ``config``, ``pictures`` (the image processor) and ``processor``, classes in their place,
and in a ``note`` what a checkpoint needs besides. ``asks`` are attributes that the processor gets later. The tokenizer
puts no BOS before a text if ``begun`` is false, a blank before one that begins with the first token of ``spaced``, and
``unk`` is its unknown token."""
