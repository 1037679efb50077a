"""Studies around the training run: analysis, benchmark, plan, report. Nothing below imports it."""
