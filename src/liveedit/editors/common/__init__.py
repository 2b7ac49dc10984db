"""Parts that several methods share, in files by name."""
