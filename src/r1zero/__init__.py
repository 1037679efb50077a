"""r1zero: a research template for R1-Zero-like reinforcement learning (GRPO and Dr. GRPO)."""

__version__ = "0.1.0"
