"""Entries that cannot be used."""
