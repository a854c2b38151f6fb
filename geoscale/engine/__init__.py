"""Engine: one block kernel, two executors, one journal."""
