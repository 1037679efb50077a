"""One training run: its parts, its callbacks, its life."""
