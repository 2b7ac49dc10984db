"""Qwen-VL, which transformers does not have: family, model, and converter of the checkpoint."""
