"""Sampling on Ray: engines in actors, on this machine or on a cluster."""
