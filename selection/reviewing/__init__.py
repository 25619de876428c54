"""The page on which a person looks at the candidates."""
