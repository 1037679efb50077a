"""The learner: policy, loss over micro-batches, optimizer steps, sharding."""
