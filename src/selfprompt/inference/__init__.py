"""A trained classifier at work: prediction, evaluation, saving and loading."""
