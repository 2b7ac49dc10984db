"""mPLUG-Owl2, which transformers does not have: family, model, and converter of the checkpoint."""
