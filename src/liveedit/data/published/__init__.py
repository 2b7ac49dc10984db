"""Published benchmarks, read from their original annotation files: VLKEB, E-VQA and others."""
