"""Question sets: reading them, making prompts of them, handing them out step by step."""
