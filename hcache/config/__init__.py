"""Configuration: what can be set, and how an experiment file becomes settings."""
