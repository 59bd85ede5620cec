"""Measures attention, training steps, sampling and reconstruction on one GPU: `python -m benchmarks.gpu`."""
