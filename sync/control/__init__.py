"""Live control: pause, throttle, and a snapshot that gives way to the servers' real work."""
