"""Measure the correction for hubness that `python -m ingest hubness` prepares and `search` applies."""
