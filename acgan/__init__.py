"""The published AC-GAN for chest X-rays in PyTorch, and one training run of it."""

from acgan.command import end_quietly_until_begun

end_quietly_until_begun()
