"""Rollout engines: from prompt token ids to sampled responses."""
