"""One small file for each family of VLMs; ``generic.py`` reads the model types that have none."""
