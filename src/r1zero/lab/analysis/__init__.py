"""What a base model can do before any training: answering, exploration, self-reflection."""
