"""The augmentation study: classifiers with and without generated images."""
