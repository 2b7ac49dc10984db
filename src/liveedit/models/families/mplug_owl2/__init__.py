"""mPLUG-Owl2, which transformers does not have: the family, the model, and a converter of its
authors' files.
"""
