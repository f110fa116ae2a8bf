"""Ranks: by the oracle, and by Qdrant in several settings."""
