"""rsync, the program that copies."""
