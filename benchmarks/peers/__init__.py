"""What a user would train otherwise: the same networks and step, written without this project."""
