"""The published networks and their step, and the options around them."""
