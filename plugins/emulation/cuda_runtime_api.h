// TensorRT's headers ask for this one.
#pragma once

#include "cuda_runtime.h"
