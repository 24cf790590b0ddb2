"""The instruments proved on the model in hand."""
