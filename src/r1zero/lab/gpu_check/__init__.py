"""What only a GPU can settle, as one command of at most eight minutes; see docs/scale/gpu_check.md."""
