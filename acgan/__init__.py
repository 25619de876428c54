"""The published AC-GAN for chest X-rays in PyTorch, and one training run of it."""

from acgan.command import end_quietly_until_begun
from acgan.streams import open_closed

open_closed()
end_quietly_until_begun()
