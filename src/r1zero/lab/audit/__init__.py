"""Recomputes rollout steps of a run from its folder, in float64 and by plain loops; shares no code with training."""
