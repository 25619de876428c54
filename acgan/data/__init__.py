"""Images and labels: found, read, checked, split, and packed for training."""
