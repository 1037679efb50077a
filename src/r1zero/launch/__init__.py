"""From a command line to a run folder: arguments, sweeps, jobs, resume, signals. Imports nothing heavy."""
