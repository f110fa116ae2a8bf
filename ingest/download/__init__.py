"""Download COCO's annotations and photos."""
