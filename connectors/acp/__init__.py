"""The agent that sessions are moved to: the Agent Client Protocol over a WebSocket."""
