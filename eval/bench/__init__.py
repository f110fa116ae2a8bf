"""Compare speed and memory with the alternatives, as ratios within one run.

Machines differ, and their speed drifts, so only the ratio of two alternatives counts, measured in turn on the same
inputs. Each measurement runs in its own process, whose peak memory is reported.
"""
