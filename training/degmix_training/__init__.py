"""Models, data, losses and training of multi-task dense prediction networks."""
