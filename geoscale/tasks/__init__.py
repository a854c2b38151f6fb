"""Tasks: what the network's output becomes."""
