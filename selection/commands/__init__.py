"""What the commands do: each file is the body of the command of its name."""
