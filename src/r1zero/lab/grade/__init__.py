"""`scripts/grade.py`: grade a file of responses, and audit a question set's golds."""
