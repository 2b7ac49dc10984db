"""Benchmarks that others published: E-VQA, E-IC and VLKEB, read from their own annotation files."""
