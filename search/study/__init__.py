"""What a study is on disk: its trials, their order and state, and what a table says of them."""
