# Where nvcc is, and whether it is new enough. Included by CMake; run as a script (cmake -P) it prints
# "found: <path>" or "not found: <reason>", which is how `make test` decides what to build.
set(ENGINE_NVCC_MINIMUM 12.4)

# Sets `path` to nvcc, or to "" with a sentence in `reason`. $CUDACXX decides when it is set, then
# PATH, $CUDA_HOME and $CUDA_PATH, and last the toolkit's usual place.
function(engine_find_nvcc path reason)
  set(${path} "" PARENT_SCOPE)
  if(DEFINED ENV{CUDACXX} AND NOT "$ENV{CUDACXX}" STREQUAL "")
    find_program(nvcc NAMES "$ENV{CUDACXX}" NO_CACHE)
  else()
    find_program(nvcc NAMES nvcc NO_CACHE PATHS
      ENV PATH "$ENV{CUDA_HOME}/bin" "$ENV{CUDA_PATH}/bin" /usr/local/cuda/bin NO_DEFAULT_PATH)
  endif()
  if(NOT nvcc)
    set(${reason} "nvcc not found" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE text ERROR_VARIABLE text
    RESULT_VARIABLE status)
  if(NOT status EQUAL 0 OR NOT text MATCHES "release ([0-9]+\\.[0-9]+)")
    set(${reason} "${nvcc} --version names no release" PARENT_SCOPE)
  elseif(CMAKE_MATCH_1 VERSION_LESS ENGINE_NVCC_MINIMUM)
    set(${reason} "${nvcc} is ${CMAKE_MATCH_1}, at least ${ENGINE_NVCC_MINIMUM} is needed"
      PARENT_SCOPE)
  else()
    set(${path} "${nvcc}" PARENT_SCOPE)
  endif()
endfunction()

if("${CMAKE_SCRIPT_MODE_FILE}" STREQUAL "${CMAKE_CURRENT_LIST_FILE}")
  engine_find_nvcc(nvcc_path nvcc_reason)
  if(nvcc_path)
    set(answer "found: ${nvcc_path}")
  else()
    set(answer "not found: ${nvcc_reason}")
  endif()
  execute_process(COMMAND ${CMAKE_COMMAND} -E echo "${answer}")
endif()
