"""The published AC-GAN for chest X-rays in PyTorch, and one training run of it."""
