"""Small helpers without knowledge of models or images."""
