"""Where image tokens lie on their pictures: one file a way of laying them out, all from the models' own numbers."""
