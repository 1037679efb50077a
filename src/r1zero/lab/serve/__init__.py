"""`scripts/serve.py`: rollout servers that outlive a training run."""
