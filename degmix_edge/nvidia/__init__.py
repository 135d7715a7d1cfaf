"""NVIDIA's libraries: CUDA, device arrays and TensorRT. No other room imports them."""
