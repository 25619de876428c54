"""Pictures of generators: films of their training, walks through latents, maps of features."""
