# Resolves ENGINE_CUDA (AUTO, ON or OFF) to ENGINE_HAS_CUDA (TRUE or FALSE) and, where it is TRUE,
# enables the language with the flags of all our CUDA code. The CUDA Toolkit is found, never
# installed. No target may link the driver library: a CUDA build has to start without a driver.
include(${CMAKE_CURRENT_LIST_DIR}/find_nvcc.cmake)

if(NOT ENGINE_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "ENGINE_CUDA is \"${ENGINE_CUDA}\"; expected AUTO, ON or OFF")
endif()

set(ENGINE_HAS_CUDA FALSE)
if(ENGINE_CUDA STREQUAL "OFF")
  message(STATUS "CUDA: off")
  return()
endif()

# A compiler that was named explicitly, or found by an earlier run, stands.
if(NOT CMAKE_CUDA_COMPILER)
  unset(CMAKE_CUDA_COMPILER CACHE)
  engine_find_nvcc(engine_nvcc engine_nvcc_reason)
  if(engine_nvcc)
    set(ENV{CUDACXX} ${engine_nvcc})
  elseif(ENGINE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "ENGINE_CUDA=ON needs the CUDA Toolkit ${ENGINE_NVCC_MINIMUM} or later: "
      "${engine_nvcc_reason}. Put nvcc on PATH, set CUDACXX, or configure with -DENGINE_CUDA=OFF.")
  else()
    message(STATUS "CUDA: off (${engine_nvcc_reason})")
    return()
  endif()
endif()

if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90a-real CACHE STRING "CUDA architectures" FORCE)
endif()
# One host compiler for .cc and .cu, so that they agree on the standard library.
if(NOT CMAKE_CUDA_HOST_COMPILER AND NOT DEFINED ENV{CUDAHOSTCXX})
  set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER} CACHE FILEPATH "Host compiler of nvcc")
endif()

if(ENGINE_CUDA STREQUAL "AUTO")
  # nvcc may still refuse the host compiler; then AUTO means off.
  set(ENV{CUDAHOSTCXX} ${CMAKE_CUDA_HOST_COMPILER})
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    message(STATUS "CUDA: off (nvcc can't compile with ${CMAKE_CUDA_HOST_COMPILER})")
    return()
  endif()
endif()
enable_language(CUDA)
find_package(CUDAToolkit ${ENGINE_NVCC_MINIMUM} REQUIRED)
set(ENGINE_HAS_CUDA TRUE)
message(STATUS "CUDA: on (${CMAKE_CUDA_COMPILER_VERSION}, ${CMAKE_CUDA_ARCHITECTURES})")

# CMake 3.25 knows no CUDA 20, so the standard is a plain flag for both languages of kernels/cuda,
# where CMAKE_CXX_STANDARD is unset.
# -Wconversion stays out: the host stubs that nvcc generates don't hold it.
add_library(engine_cuda_flags INTERFACE)
target_compile_options(engine_cuda_flags INTERFACE
  -std=c++20
  $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo -Werror=all-warnings
  -Xcompiler=-Wall,-Wextra,-Wshadow,-Werror>)
# The runtime is linked statically and finds the driver when it is first called.
target_link_libraries(engine_cuda_flags INTERFACE CUDA::cudart_static CUDA::cublasLt)
