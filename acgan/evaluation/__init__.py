"""What an epoch's generator is worth: losses, accuracies and the score, and what measures them."""
