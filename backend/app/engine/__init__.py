"""Engines behind one Protocol, one file each."""
