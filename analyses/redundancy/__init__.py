"""What a model could do without: layers, modules, and its image behind some layer."""
