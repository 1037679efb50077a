"""Pretraining, RL and evaluation of one model in one go, each by the command that a user would type."""
