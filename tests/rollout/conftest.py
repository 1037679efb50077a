"""Shared fixtures of the engine tests."""

from rollout_support import folders, served, texts

__all__ = ["folders", "served", "texts"]
