"""Neurons: which serve one language or domain, and what removing them does."""
