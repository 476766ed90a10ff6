"""Builds programs and runs them."""
