"""The same rollout steps through this project and through TRL's GRPOTrainer, turn by turn."""
