"""Annotations: which photos there are, their captions and their splits."""
