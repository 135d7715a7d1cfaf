# Kernels for the cards of this project, and the plugin over them.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES OFF) # targets name theirs
endif()
set(DEGMIX_CUDA_ARCHITECTURES "" CACHE STRING "Compute capabilities, as CMAKE_CUDA_ARCHITECTURES; empty is all of the project's")
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(architectures ${DEGMIX_CUDA_ARCHITECTURES})
if(NOT architectures)
  # 75 is Turing, 87 is Orin, 110 is Thor. The last is kept as PTX too, for cards to come. 90a is 90 with
  # instructions of its own.
  if(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 13.0)
    set(architectures 75-real 80-real 86-real 87-real 89-real 90a-real 100-real 110-real 120)
  else()
    set(architectures 75-real 80-real 86-real 87-real 89-real 90a-real 90-virtual)
  endif()
endif()
message(STATUS "degmix: CUDA ${CUDAToolkit_VERSION} kernels for ${architectures}")

add_library(degmix_objects OBJECT ${DEGMIX_KERNELS})
set_target_properties(degmix_objects PROPERTIES CUDA_ARCHITECTURES "${architectures}")
target_include_directories(degmix_objects PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(degmix_objects PUBLIC CUDA::cudart_static)
# A quarter of the size. Drivers of CUDA 13 can read it.
if(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 13.0)
  target_compile_options(degmix_objects PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size>)
endif()
target_compile_options(degmix_objects PRIVATE
  $<$<COMPILE_LANGUAGE:CXX>:${DEGMIX_WARNINGS} -fvisibility=hidden>
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-fvisibility=hidden;-Werror=all-warnings;-Xptxas=-v,-warn-spills>")

add_library(degmix_kernels SHARED kernels/degmix_kernels.cpp)
target_link_libraries(degmix_kernels PRIVATE degmix_objects)
target_compile_options(degmix_kernels PRIVATE ${DEGMIX_WARNINGS} -fvisibility=hidden)
target_link_options(degmix_kernels PRIVATE ${DEGMIX_LINK})
install(TARGETS degmix_kernels LIBRARY DESTINATION ${DEGMIX_NATIVE})

if(DEGMIX_TENSORRT_INCLUDE)
  # One library a major version: loggers and registries differ between them.
  set(plugin degmix_trt${DEGMIX_TENSORRT_MAJOR})
  add_library(${plugin} SHARED ${DEGMIX_PLUGIN})
  target_include_directories(${plugin} SYSTEM PRIVATE ${DEGMIX_TENSORRT_INCLUDE})
  target_link_libraries(${plugin} PRIVATE degmix_objects)
  target_compile_options(${plugin} PRIVATE ${DEGMIX_WARNINGS} -fvisibility=hidden)
  target_link_options(${plugin} PRIVATE ${DEGMIX_LINK})
  install(TARGETS ${plugin} LIBRARY DESTINATION ${DEGMIX_NATIVE})

  add_executable(degmix_mini_host tools/mini_host.cpp)
  target_include_directories(degmix_mini_host SYSTEM PRIVATE ${DEGMIX_TENSORRT_INCLUDE})
  target_link_libraries(degmix_mini_host PRIVATE CUDA::cudart_static ${CMAKE_DL_LIBS})
  target_include_directories(degmix_mini_host PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_options(degmix_mini_host PRIVATE ${DEGMIX_WARNINGS})
endif()
