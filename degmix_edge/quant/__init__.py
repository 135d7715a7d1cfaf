"""Which nodes run in which precision, and the numbers that quantize them."""
