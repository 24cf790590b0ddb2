"""Where the model looks, against the boxes of what is asked for."""
