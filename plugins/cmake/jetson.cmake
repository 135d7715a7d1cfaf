# Cross-building for a Jetson (aarch64): -DCMAKE_TOOLCHAIN_FILE=plugins/cmake/jetson.cmake
# -DJETSON_SYSROOT=<copy of the Jetson's root, with CUDA and TensorRT's headers>. Needs
# g++-aarch64-linux-gnu and an nvcc of the Jetson's CUDA version (12.6 for JetPack 6, 13 for 7).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CUDA_HOST_COMPILER aarch64-linux-gnu-g++)
if(JETSON_SYSROOT)
  set(CMAKE_SYSROOT ${JETSON_SYSROOT})
  list(APPEND CMAKE_FIND_ROOT_PATH ${JETSON_SYSROOT} ${JETSON_SYSROOT}/usr/local/cuda)
endif()
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES JETSON_SYSROOT)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
# Orin; Thor is 110 and needs CUDA 13.
set(DEGMIX_CUDA_ARCHITECTURES 87-real CACHE STRING "Orin")
