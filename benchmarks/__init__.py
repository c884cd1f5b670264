"""What it costs: programs that measure ours beside what a user would have otherwise."""
