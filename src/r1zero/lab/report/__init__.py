"""Figures and tables from run folders."""
