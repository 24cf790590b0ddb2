"""Interventions swept over layers, heads and positions, exactly; and what is attributed to them."""
