"""Causal-LM pretraining: text, packing, the LightningModule, and the export of a model folder."""
