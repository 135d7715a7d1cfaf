"""Read, write and check ONNX graphs, count their work and follow their routers."""
