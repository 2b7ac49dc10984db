"""What several methods are made of, in files by name."""
