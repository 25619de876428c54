"""What must never be forgotten: what people decided, and each look at the test images."""
