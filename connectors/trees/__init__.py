"""Folders and files: looked at, compared, renamed. No symbolic link is followed; names are bytes."""
