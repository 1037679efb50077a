"""Looks at a run folder or at the machine and says what is wrong. Imports nothing heavy; docs/run-folder.md."""
