# TensorRT's headers: DEGMIX_TENSORRT_INCLUDE and DEGMIX_TENSORRT_MAJOR, empty where there are none.
# The library itself is not linked: the plugin only implements interfaces.
# Not cached: another TENSORRT_ROOT in the same build folder must count.
find_path(DEGMIX_TENSORRT_INCLUDE NvInferRuntime.h NO_CACHE
  HINTS ${TENSORRT_ROOT} $ENV{TENSORRT_ROOT}
  PATH_SUFFIXES include . targets/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu/include
  PATHS /usr/include/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu /usr/local/tensorrt /opt/tensorrt)
if(DEGMIX_TENSORRT_INCLUDE)
  file(STRINGS ${DEGMIX_TENSORRT_INCLUDE}/NvInferVersion.h lines
    REGEX "define (NV_TENSORRT_MAJOR|TRT_MAJOR_ENTERPRISE) +[0-9]+")
  list(GET lines 0 line)
  string(REGEX MATCH "[0-9]+" DEGMIX_TENSORRT_MAJOR "${line}")
  if(DEGMIX_TENSORRT_MAJOR LESS 10)
    message(FATAL_ERROR "degmix: TensorRT ${DEGMIX_TENSORRT_MAJOR} in ${DEGMIX_TENSORRT_INCLUDE} has no "
      "IPluginV3; expected 10.3 or later (JetPack 6.1 or later)")
  endif()
  message(STATUS "degmix: TensorRT ${DEGMIX_TENSORRT_MAJOR} headers in ${DEGMIX_TENSORRT_INCLUDE}")
else()
  message(STATUS "degmix: no TensorRT plugin: NvInferRuntime.h was not found in TENSORRT_ROOT "
    "('${TENSORRT_ROOT}') nor under /usr/include, /usr/local/tensorrt, /opt/tensorrt. Install libnvinfer-dev (on a "
    "Jetson: sudo apt install tensorrt-dev), or give -DTENSORRT_ROOT=<folder of TensorRT's tar>. pip's tensorrt has "
    "no headers")
endif()
