"""Measures the index: Recall@k and ranks over the splits of the data set, in both directions."""
