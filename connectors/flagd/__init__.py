"""Flags as flagd has them: in its own file, or behind a service."""
