"""The model step: features, guards, a backend, and an answer for each row."""
