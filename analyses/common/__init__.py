"""What the questions share: statistics, claims, controls, tables."""
