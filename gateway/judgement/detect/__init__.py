"""Detectors: numpy over many channels at once."""
