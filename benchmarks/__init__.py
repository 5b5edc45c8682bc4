"""Benchmarks: each measures one thing that the README states, and writes it to ``benchmarks/results``."""
