"""Workspaces: planned, copied in two passes, put into the new layout, and compared."""
