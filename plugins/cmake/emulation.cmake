# The kernels' own sources for the processor: see emulation/emulation.h.
add_library(degmix_emulated_objects OBJECT emulation/emulation.cpp ${DEGMIX_KERNELS})
set_source_files_properties(${DEGMIX_KERNELS} PROPERTIES LANGUAGE CXX)
target_include_directories(degmix_emulated_objects BEFORE PUBLIC emulation ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(degmix_emulated_objects PUBLIC DEGMIX_EMULATED)
set(options ${DEGMIX_WARNINGS} -Wno-unknown-pragmas -fvisibility=hidden)
target_compile_options(degmix_emulated_objects PRIVATE ${options} -xc++)

add_library(degmix_kernels_emulated SHARED kernels/degmix_kernels.cpp)
target_link_libraries(degmix_kernels_emulated PRIVATE degmix_emulated_objects)
target_compile_options(degmix_kernels_emulated PRIVATE ${options})
target_link_options(degmix_kernels_emulated PRIVATE ${DEGMIX_LINK})

# The library of bench/layouts.py, which no other target needs.
add_library(degmix_kernels_padded_emulated SHARED EXCLUDE_FROM_ALL kernels/degmix_kernels.cpp bench/padded_sample.cu)
set_source_files_properties(bench/padded_sample.cu PROPERTIES LANGUAGE CXX)
target_include_directories(degmix_kernels_padded_emulated BEFORE PRIVATE emulation ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(degmix_kernels_padded_emulated PRIVATE DEGMIX_EMULATED)
target_link_libraries(
  degmix_kernels_padded_emulated
  PRIVATE "$<FILTER:$<TARGET_OBJECTS:degmix_emulated_objects>,EXCLUDE,deform_sample/deform_sample>")
target_compile_options(degmix_kernels_padded_emulated PRIVATE ${options} -xc++)
target_link_options(degmix_kernels_padded_emulated PRIVATE ${DEGMIX_LINK})

if(DEGMIX_TENSORRT_INCLUDE)
  add_library(degmix_trt_emulated SHARED ${DEGMIX_PLUGIN})
  target_include_directories(degmix_trt_emulated SYSTEM PRIVATE ${DEGMIX_TENSORRT_INCLUDE})
  target_link_libraries(degmix_trt_emulated PRIVATE degmix_emulated_objects)
  target_compile_options(degmix_trt_emulated PRIVATE ${options})
  target_link_options(degmix_trt_emulated PRIVATE ${DEGMIX_LINK})

  add_executable(degmix_mini_host_emulated tools/mini_host.cpp)
  target_include_directories(degmix_mini_host_emulated BEFORE PRIVATE emulation ${CMAKE_CURRENT_SOURCE_DIR})
  target_include_directories(degmix_mini_host_emulated SYSTEM PRIVATE ${DEGMIX_TENSORRT_INCLUDE})
  target_compile_definitions(degmix_mini_host_emulated PRIVATE DEGMIX_EMULATED)
  target_link_libraries(degmix_mini_host_emulated PRIVATE ${CMAKE_DL_LIBS})
  target_compile_options(degmix_mini_host_emulated PRIVATE ${options})
endif()
