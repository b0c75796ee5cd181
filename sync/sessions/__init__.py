"""Sessions: their users are told, their end is waited for, and those that are left are moved to the agent."""
