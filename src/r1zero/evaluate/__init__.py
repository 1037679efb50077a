"""Offline evaluation: the same templates, engines and verifier as training, resumable, with intervals."""
