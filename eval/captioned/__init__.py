"""Measure captions as evidence for photos, which `search --evidence` ranks by: a task of its own, leaving one out."""
