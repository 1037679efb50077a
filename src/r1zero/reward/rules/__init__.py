"""What makes two answers equal."""
