"""TensorRT and TensorRT-RTX: finding the libraries, building plans, running engines."""
