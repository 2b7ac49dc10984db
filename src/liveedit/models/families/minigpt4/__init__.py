"""MiniGPT-4, which transformers does not have: the family, and a converter of the checkpoint."""
