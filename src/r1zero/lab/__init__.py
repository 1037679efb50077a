"""Studies around the training run: analysis, benchmark, pipeline, plan, report. Nothing below imports it."""
