"""Rollouts by transformers alone: its models and caches, this project's decoding loop."""
