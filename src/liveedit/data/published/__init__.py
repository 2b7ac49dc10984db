"""Published benchmarks: E-VQA, E-IC and VLKEB, read from their original annotation files."""
