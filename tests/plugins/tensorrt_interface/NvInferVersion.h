// The interface below is the one that TensorRT 10.3 to 11.1 share.
#pragma once

#define NV_TENSORRT_MAJOR 10
