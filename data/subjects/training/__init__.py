"""How the scenes subject was made: `python -m crosslens.data.training` trains it from nothing, in five stages."""
