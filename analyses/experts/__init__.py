"""Mixtures of experts: which experts tokens go to, and what texts lose without some of them."""
