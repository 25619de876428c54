"""What is computed from features and answers: distances, copies, intervals."""
