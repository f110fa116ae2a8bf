"""Speed and memory beside the alternatives, in one run, as ratios.

Machines differ and drift, so what counts is the ratio between two things measured in turn on the same inputs. Each
measurement runs in a process of its own, whose peak memory it is.
"""
