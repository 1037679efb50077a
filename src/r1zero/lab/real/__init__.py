"""A real small model on real questions, GRPO beside Dr. GRPO: `make real`."""
