"""What will not work, and what will not fit, told before anything moves."""
