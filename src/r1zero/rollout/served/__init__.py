"""Rollout engines in processes of their own: the server, its protocol, and the engine that uses several."""
