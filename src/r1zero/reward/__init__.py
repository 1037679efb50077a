"""Rewards that can be trusted: extraction, exact rules, math-verify in killable workers, plug-in functions.

``grader.Grader`` is the one object that training and evaluation share (trap 49). Importing this package
is light: sympy and math-verify are imported in the worker processes alone.
"""
