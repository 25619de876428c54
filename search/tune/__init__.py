"""The search itself: Ray Tune's trials, the sampler it asks, and the rules that end a trial."""
