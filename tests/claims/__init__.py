"""Planted tables of every claim: one in which it holds, one in which it fails; see tests/test_claims.py."""
