"""Calibration: run images through the float graph and choose the range of each activation."""
