"""The training of the demo's tiny CLIP."""
