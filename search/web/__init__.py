"""Serve the index as a web page and a JSON API: `python -m search serve`."""
