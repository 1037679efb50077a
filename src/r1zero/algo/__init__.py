"""The objective: pure functions of tensors and scalars. Nothing here knows a model, a config or a logger."""
