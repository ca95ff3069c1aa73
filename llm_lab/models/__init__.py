"""The transformer, its parts, and what can be seen inside it."""
