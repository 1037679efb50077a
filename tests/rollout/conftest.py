"""Shared fixtures of the engine tests."""

from rollout_support import folders, pair, served, texts

__all__ = ["folders", "pair", "served", "texts"]
