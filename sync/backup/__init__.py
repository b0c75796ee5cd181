"""Backups of the source, the target and file trees: made whole or not at all, checked, restored."""
