"""Special tokens, and settings by model type, for tiny models that ``shrink`` builds."""

from typing import Any

__all__ = ["MARKS", "NAMED", "OVERRIDES"]

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
"""Special tokens by the tokenizer's attribute under which processors look for them."""

MARKS = [
    "<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<global-img>",
    "<end_of_utterance>", "<row_1_col_1>", "<row_1_col_2>", "<row_2_col_1>", "<row_2_col_2>",
    "<|image_pad|>", "<|video_pad|>", "<|imgpad|>", "<imgpad>", "<|media_pad|>", "<|patch|>",
    "<|image|>", "<|video|>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>",
    "TILE_GLOBAL", "<|VISION_START|>", "<|VISION_END|>", "<|IMAGE_PAD|>", "<|VIDEO_PAD|>",
    "]<]image[>[", "]<]video[>[", "]<]start of image[>[", "]<]end of image[>[", "[IMG]",
    "[IMG_END]", "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<im_low>",
    "<low_res_im_start>", "<|tile_x_separator|>", "<|tile_y_separator|>", "<|img_thumbnail|>",
    "<IMG_START>", "<IMG_END>", "<IMG_COL>", "<IMG_ROW>", "<IMG_GRID>", "<IMG_ATOM>",
    "<|begin_of_image|>", "<|end_of_image|>", "<patch_newline>", "<0x04>", "<frame_start>",
    "<frame_end>", "<|audio_comp_pad|>", "<|python_tag|>", "<patch_start>", "<patch_end>",
    "<|content_image|>", "<|content_audio_input|>",
]  # fmt: skip
"""Special tokens whose text is hard-coded in processors."""

ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5]}
"""Rotary positions in time, height and width, for a head 32 wide."""
HALF = {
    "text_config": {
        "rope_parameters": ROTARY | {"mrope_section": [4, 2, 2], "partial_rotary_factor": 0.5}
    }
}
GLM = {"text_config": {"rope_parameters": ROTARY}}

LATENT = {
    **dict.fromkeys(["kv_lora_rank", "q_lora_rank"], 16),
    **dict.fromkeys(["qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"], 32),
    "num_key_value_heads": 2,
}
"""Multi-head latent attention (DeepSeek-V2)."""
INKLING = {
    "swa_num_attention_heads": 2,
    "swa_num_key_value_heads": 1,
    "swa_head_dim": 32,
    "layer_types": ["hybrid_sliding", "hybrid"] * 2,
}
PIXTRAL: dict[str, Any] = {
    "config": {"vision_config": {"image_size": 64}},
    "image_processor": {"size": {"longest_edge": 64}},
    "processor": {"spatial_merge_size": 2},
    "note": "needs torchvision",
}
LETTERS = [*"ABCDEFGHIJ", *(f"B{letter}" for letter in "ABCDEF")]
CHAMELEON = [f"IMGIMG{letters}Z" for letters in LETTERS]
EMU3 = [f"<|visual token {code:06d}|>" for code in range(16)]
"""The words of Chameleon's and Emu3's vocabulary for 16 codes of images."""

DOTS = {
    **dict.fromkeys(["q_lora_rank", "kv_lora_rank"], 16),
    **dict.fromkeys(["qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"], 16),
}
"""Latent attention of dots3.note, for a head 32 wide."""

MERGED = {
    "config": {"insert_layer_id": 0, "vision_config": {"insert_layer_id": 0}},
    "image_processor": {"scale_resolution": 64, "max_slice_nums": 1},
}

SHARED = {  # upper layers of either type use keys and values of lower ones
    "vocab_size_per_layer_input": 480,
    "hidden_size_per_layer_input": 16,
    "num_hidden_layers": 5,
    "layer_types": [
        f"{kind}_attention" for kind in ("sliding", "full", "sliding", "sliding", "full")
    ],
    "num_kv_shared_layers": 3,
    "sliding_window": 32,
}

OVERRIDES: dict[str, dict[str, Any]] = {
    "aria": {
        "config": {
            "vision_config": {"image_size": 980, "patch_size": 140},
            "text_config": {"moe_num_shared_experts": 1},
            "projector_patch_to_query_dict": {49: 4},
        },
        "image_processor": {"max_image_size": 980},
        "processor": {"size_conversion": {980: 4}},
    },
    "aya_vision": {
        "image_processor": {"crop_to_patches": False},
        "processor": {"img_size": 32, "downsample_factor": 2},
        "tokens": {"image_token_id": "<|IMG_PATCH|>"},
    },
    "chameleon": {
        "config": {
            "vq_config": {
                "base_channels": 32,
                "channel_multiplier": [1, 1, 1, 1],
                "latent_channels": 32,
                "num_embeddings": 16,
                "num_res_blocks": 1,
                "resolution": 32,
            }
        },
        "processor": {"image_seq_length": 16},
        "named": {
            "boi_token": "<racm3:break>",
            "eoi_token": "<eoss>",
            "sep_token": "<reserved08706>",
            **{word: word for word in CHAMELEON},
        },
    },
    "cohere2_vision": {"image_processor": {"patch_size": 2}},
    "apertus1p5": {
        "config": {
            "vision_config": {
                **dict.fromkeys(["base_channels", "latent_channels"], 32),
                "channel_multiplier": [1, 1, 1, 1, 1],
                "codebook_size": 16,
                "num_res_blocks": 1,
            },
            "audio_config": {
                "codebook_dim": 32,
                "codebook_size": 16,
                "num_filters": 4,
                "num_lstm_layers": 1,
            },
            "image_token_offset": 400,
            "audio_token_offset": 416,
        },
        "image_processor": {"size": {"min_pixels": 1024, "max_pixels": 4096}},
        "named": {"eol_token": "<eol>"},
    },
    "cohere_compass": {
        "config": {
            "text_config": {"rope_parameters": {"full_attention": ROTARY}},
            "vision_config": {"deepstack_visual_indexes": [0, 1]},
        },
        "named": {
            "image_token": "<|IMAGE_PAD|>",
            "video_token": "<|VIDEO_PAD|>",
            "vision_start_token": "<|VISION_START|>",
            "vision_end_token": "<|VISION_END|>",
        },
    },
    "cosmos3_omni": {
        "processor_class": "Qwen3VLProcessor",
        "config": {"vision_config": {"deepstack_visual_indexes": [0, 1]}},
    },
    "deepseek_vl": {"processor": {"num_image_tokens": 16}},
    "deepseek_vl_hybrid": {
        "config": {"high_res_vision_config": {"global_attn_indexes": [0, 1]}},
        "image_processor": {"high_res_size": {"height": 32, "width": 32}},
        "processor": {"num_image_tokens": 16},
    },
    "dots3_note": {
        "config": {
            "text_config": {
                **DOTS,
                "num_key_value_heads": 2,
                "index_topk": 24,
                "index_head_dim": 32,
                "index_n_heads": 8,
                "shared_experts_intermediate_size": 64,
                **{
                    f"swa_{name}": value
                    for name, value in DOTS.items()
                    if name != "qk_rope_head_dim"
                },
                "swa_num_attention_heads": 2,
                "swa_num_key_value_heads": 2,
                "swa_head_dim": 32,
            },
            "vision_config": {
                "pyramid_num_routed": [-1, 4],
                "moe_intermediate_size": 48,
                "adapter_in_dim": 32,
                "adapter_out_dim": 64,
            },
            "audio_config": {
                "adapter_input_size": 32,
                "adapter_out_dim": 64,
                "downsample_hidden_size": 8,
            },
        },
        "image_processor": {"temporal_patch_size": 1},
    },
    "emu3": {
        "config": {
            "vq_config": {
                "base_channels": 32,
                "channel_multiplier": [1, 1, 1, 1],
                "codebook_size": 16,
                "num_res_blocks": 1,
            }
        },
        "image_processor": {"min_pixels": 256, "max_pixels": 1024},
        "named": {
            "boi_token": "<|image start|>",
            "eoi_token": "<|image end|>",
            "eol_token": "<|extra_200|>",
            **{word: word for word in EMU3},
        },
        "begins": False,
    },
    "gemma3": {
        "config": {"mm_tokens_per_image": 4},
        "processor": {"image_seq_length": 4},
        "tokens": {"image_token_id": "<image>"},
    },
    "granite4_vision": {
        "config": {
            "text_config": {
                "num_hidden_layers": 6,
                "embedding_multiplier": 2.0,
                "residual_multiplier": 0.5,
                "logits_scaling": 2.0,
            },
            "vision_config": {"hidden_size": 64},
            "deepstack_layer_map": [[-1, 0], [-2, 1]],
            "spatial_target_layers": [2, 3, 4, 5],
            "downsample_rate": "1/2",
        },
        "processor": {
            "downsample_rate": "1/2",
            "num_additional_image_tokens": 1,
            "vision_feature_select_strategy": "default",
        },
    },
    "gemma3n": {
        "config": {
            "text_config": SHARED
            | {
                "intermediate_size": 64,
                "laurel_rank": 8,
                "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0, 0.0],
            },
            "audio_config": {
                "hidden_size": 32,
                "conf_num_hidden_layers": 1,
                "conf_num_attention_heads": 2,
                "sscp_conv_channel_size": [4, 4],
            },
            "vision_soft_tokens_per_image": 16,
        },
        "processor": {"image_seq_length": 16},
        "note": "needs torchvision and timm; the tiny model has another vision tower",
    },
    "gemma4": {
        "config": {
            "text_config": SHARED | {"use_double_wide_mlp": True},
        },
        "image_processor": {"max_soft_tokens": 70},
    },
    "gemma4_unified": {
        "config": {"vision_config": {"mm_embed_dim": 64, "output_proj_dims": 64}},
        "image_processor": {"max_soft_tokens": 70},
    },
    "deepseek_ocr2": {
        "config": {
            "text_config": {
                "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
                "num_experts_per_tok": 2,
            },
            "vision_config": {
                # The number of queries is not in the configuration: it needs a grid of 64 by 64.
                "sam_config": {
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
        "image_processor": {"size": {"height": 64, "width": 64}, "tile_size": 48},
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
        "image_processor_class": "CLIPImageProcessorPil",
        "processor_class": "LlavaProcessor",
        "note": "needs timm; the tiny model has another vision tower",
    },
    "fuyu": {
        "config": {"image_size": 32, "patch_size": 8},
        "image_processor_class": "FuyuImageProcessor",
        "spaced": ["|SPEAKER|", "|NEWLINE|"],
    },
    "hunyuan_vl": {
        "config": {
            "text_config": {
                "head_dim": 32,
                "rope_parameters": ROTARY | {"mrope_section": [4, 4, 4, 4]},
            }
        }
    },
    "inkling2": {
        "config": {
            "text_config": INKLING | {"n_layers_per_attn_res_block": 2},
            "vision_config": {"projection_hidden_dim": 64},
        },
        "image_processor": {"size": {"height": 16, "width": 16}},
    },
    "inkling_mm_model": {
        "config": {"text_config": INKLING, "vision_config": {"patch_size": 11, "n_layers": 3}},
        "image_processor": {"size": {"height": 11, "width": 11}},
    },
    "instructblip": {"processor": {"num_query_tokens": 32}},
    "kimi_k25": {
        "config": {
            "projection_hidden_size": 32,
            "text_config": LATENT | {"n_group": 2, "topk_group": 1},
        },
    },
    "llama4": {
        "config": {
            "vision_config": {
                "intermediate_size": 128,
                "projector_input_dim": 64,
                "projector_output_dim": 64,
                "vision_output_dim": 64,
            }
        },
        "tokens": {"image_token_id": "<|patch|>"},
    },
    "lfm2_vl": {
        "image_processor": {
            "encoder_patch_size": 8,
            "tile_size": 32,
            "min_image_tokens": 1,
            "max_image_tokens": 4,
        },
    },
    "git": {
        "named": {"cls_token": "<s>", "mask_token": "[MASK]"},
        "note": "checkpoints whose tokenizer knows only lower case answer in lower case",
    },
    "glm46v": {"config": GLM},
    "glm4v": {"config": GLM},
    "glm4v_moe": {"config": HALF, "image_processor_class": "Glm4vImageProcessorPil"},
    "glm5_next": {
        "config": {
            "text_config": {
                **dict.fromkeys(["kv_lora_rank", "q_lora_rank"], 16),
                **dict.fromkeys(
                    ["qk_nope_head_dim", "v_head_dim", "linear_head_dim", "index_head_dim"], 32
                ),
                **dict.fromkeys(["num_key_value_heads", "linear_num_heads", "hc_mult"], 2),
                "index_n_heads": 8,
                "index_topk": 16,
                "index_kpool": 4,
            },
            "vision_config": {"projection_intermediate_size": 48},
        },
    },
    "glm_ocr": {
        "config": HALF,
        "image_processor_class": "Glm46VImageProcessorPil",
        "processor_class": "Glm46VProcessor",
    },
    "glmga": {"config": HALF, "processor_class": "Glm46VProcessor"},
    "got_ocr2": {
        "config": {
            "vision_config": {
                "image_size": 64,
                "patch_size": 1,
                "global_attn_indexes": [],
                "window_size": 4,
            }
        },
        "image_processor": {"size": {"height": 64, "width": 64}},
    },
    "granite_docling": {
        "config": {"text_config": {"logits_scaling": 2.0}},
        "processor": {"image_seq_len": 1},
    },
    "hyperclovax_vision_v2": {"config": {"text_config": {"logits_scaling": 2.0}}},
    "hy_v4_vl": {"config": {"text_config": {"qk_rope_head_dim": 32}}},
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
        "begins": False,
        "config": {
            "latent_query_num": 16,
            "vision_config": {"patch_embed_hidden_size": 192, "max_num_patches": 64},
        },
        "processor": {"num_image_tokens": 16},
        "processor_class": "Kosmos2_5Processor",
        "asks": {"images_kwargs": {"max_patches": 16, "return_tensors": "pt"}},
    },
    "llava_onevision": {
        "processor": {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
    },
    "minicpm_ocr": MERGED,
    "minicpmv4_6": MERGED,
    "minicpmv4_7": MERGED,
    "minimax_m3_vl": {
        "image_processor_class": "Qwen2VLImageProcessorPil",
        "note": "needs torchvision",
    },
    "mistral3": PIXTRAL,
    "mistral_large4": PIXTRAL
    | {
        "config": PIXTRAL["config"]
        | {"text_config": LATENT | {"index_n_heads": 2, "index_head_dim": 32}}
    },
    "molmo2": {
        "config": {"adapter_config": {"vision_feature_layer": [1, 0]}},
        "image_processor": {"overlap_margins": [1, 1]},
        "tokens": {"image_patch_id": "<im_patch>", "image_token_id": "<im_patch>"},
    },
    "muse_glimmer": {"config": {"out_hidden_size": 128, "projector_hidden_size": 64}},
    "muse_spark": {
        "config": {
            "text_config": {"moe_hidden_size": 32},
            "vision_config": {"pos_emb_height": 4, "pos_emb_width": 4},
            "audio_config": {"patch_sizes": [2, 2], "hidden_sizes": [32, 32], "depths": [1, 1]},
            "out_hidden_size": 128,
            "projector_hidden_size": 64,
        },
    },
    "nemotron_h_omni": {
        "config": {
            "text_config": {
                "mamba_num_heads": 4,
                "mamba_head_dim": 16,
                "n_groups": 2,
                "ssm_state_size": 16,
                "chunk_size": 16,
                "moe_shared_expert_intermediate_size": 64,
            },
            "vision_config": {"video_temporal_patch_size": 2, "max_img_size": 64},
            "projector_hidden_size": 64,
            "vision_hidden_size": 32,
        },
    },
    "ovis2": {
        "processor": {"image_seq_length": 16},
        "tokens": {
            "image_token_id": "<IMG_ATOM>",
            "visual_indicator_token_ids": [
                "<IMG_START>",
                "<IMG_GRID>",
                "<IMG_COL>",
                "<IMG_ROW>",
                "<IMG_END>",
            ],
        },
    },
    "paddleocr_vl": {"config": GLM},
    "paligemma": {"config": {"projection_dim": 64}, "image_processor": {"image_seq_length": 16}},
    "perception_lm": {
        "config": {
            "projector_pooling_ratio": 2,
            "vision_config": {
                "model_type": "clip_vision_model",
                "model_args": {"embed_dim": 32},
                "image_size": 32,
                "patch_size": 8,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
            },
        },
        "image_processor": {"tile_size": 32, "max_num_tiles": 6},
        "note": "needs torchvision and timm; its vision tower here is CLIP's",
    },
    "pp_chart2table": {
        "config": {"vision_config": {"patch_size": 2, "global_attn_indexes": [], "window_size": 4}},
        "tokens": {"image_token_index": "<imgpad>"},
    },
    "qwen2_5_omni_thinker": {
        "processor_class": "Qwen2_5OmniProcessor",
        "image_processor_class": "Qwen2VLImageProcessorPil",
        "config": GLM,
        "tokens": {
            "vision_start_token_id": "<|vision_bos|>",
            "vision_end_token_id": "<|vision_eos|>",
        },
    },
    "qwen2_5_vl": {"config": GLM},
    "qwen3_omni_moe_thinker": {
        "processor_class": "Qwen3OmniMoeProcessor",
        "image_processor_class": "Qwen2VLImageProcessorPil",
        "config": {"vision_config": {"deepstack_visual_indexes": [0, 1]}},
        "tokens": {
            "vision_start_token_id": "<|vision_bos|>",
            "vision_end_token_id": "<|vision_eos|>",
        },
    },
    "qwen3_vl": {"config": {"vision_config": {"deepstack_visual_indexes": [0, 1]}}},
    "qwen3_vl_moe": {
        "config": {"vision_config": {"deepstack_visual_indexes": [0, 1]}},
        "image_processor_class": "Qwen2VLImageProcessorPil",
    },
    "qwen4_exp": {
        "config": {
            "text_config": {
                "hc_count": 2,
                "hc_lowrank": 8,
                "eos_token_id": 1,
                "ple_layer_ids": [1],
                "ple_embed_dim": 64,
                "heads_per_ngram": 2,
                "ngram_vocab_size_base": 50,
                "make_ngram_vocab_size_divisible_by": 8,
                "split_ngram_parts": 1,
                "indexer_n_heads": 8,
                "indexer_kv_heads": 1,
                "indexer_head_dim": 32,
                "indexer_budget": 16,
                "indexer_compress_ratio": 2,
                "rope_parameters": ROTARY,
            }
        },
    },
    "step3p7": {
        "config": {
            "vision_config": {"patch_size": 4},
            "text_config": {
                "share_expert_dim": 64,
                "layer_types": ["full_attention", "sliding_attention"] * 2,
                "sliding_window": 512,
            },
        },
        "image_processor": {"patch_size": 16, "vision_patch_size": 4, "max_image_size": 256},
    },
    "unlimited_ocr": {
        "config": {
            "vision_config": {
                "sam_config": {
                    "downsample_channels": [16, 32],
                    "global_attn_indexes": [1],
                    "window_size": 2,
                },
            },
        },
        "image_processor": {"size": {"height": 64, "width": 64}, "tile_size": 32},
    },
    "video_llava": {
        "image_processor": {
            "size": {"shortest_edge": 32},
            "crop_size": {"height": 32, "width": 32},
        },
    },
    "vipllava": {
        "config": {"vision_feature_layers": [-1, -2]},
        "processor": {
            "num_additional_image_tokens": 1,
            "vision_feature_select_strategy": "default",
        },
    },
}
"""Overrides by model type. Each may have these entries, all of them optional:

    config            settings of the configuration
    image_processor   settings of the image processor; ``image_processor_class`` names its class
    processor         settings of the processor, of the class ``processor_class`` if given
    asks              attributes to set on the processor afterwards
    tokens            the text of special tokens, by the configuration's setting that holds the id
    named             special tokens by the attribute under which the processor looks for them
    bos, unk          the tokenizer's BOS and unknown token
    begins            false: the tokenizer puts no BOS before a text
    spaced            added tokens; a text that begins with the first of them gets a blank before it
    note              what a checkpoint of this type needs beyond this package
"""
