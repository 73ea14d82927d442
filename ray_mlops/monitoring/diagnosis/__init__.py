"""What is behind an alarm, on demand: pure functions over rows of the reference and rows of now."""
