"""One small file for each family of VLMs, and ``generic.py`` for all model types without one."""
