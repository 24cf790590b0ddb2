"""What comes out: figures, pages and the gallery, from run directories alone."""
