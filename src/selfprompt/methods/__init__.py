"""One file a paper: parameters, logits and loss of each method."""
