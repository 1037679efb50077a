"""Shared fixtures of the engine tests."""

from rollout_support import folders, local_ray, pair, served, texts

__all__ = ["folders", "local_ray", "pair", "served", "texts"]
