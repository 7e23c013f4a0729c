"""Prediction, evaluation, saving and loading of trained classifiers."""
