# Run at build time (cmake -P): fills build_info.cc.in, and leaves the output alone when nothing
# changed so that nothing is rebuilt. Takes source_dir, output and the values of the template.
cmake_minimum_required(VERSION 3.25)
find_program(git NAMES git NO_CACHE)
set(commit "unknown")
if(git)
  # The ceiling keeps git from answering for a checkout that merely contains an unpacked archive.
  cmake_path(GET source_dir PARENT_PATH parent)
  set(ENV{GIT_CEILING_DIRECTORIES} "${parent}")
  execute_process(
    COMMAND ${git} --no-optional-locks describe --always --dirty --abbrev=12 --exclude=*
    WORKING_DIRECTORY ${source_dir} OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_QUIET RESULT_VARIABLE status)
  if(status EQUAL 0 AND NOT described STREQUAL "")
    set(commit "${described}")
  endif()
endif()

# "80-real,90a-real,90-virtual" reads "80, 90a; PTX 90". A number without a suffix is both.
string(REPLACE "," ";" architectures "${architectures}")
set(machine_code "")
set(ptx "")
foreach(architecture IN LISTS architectures)
  string(REGEX MATCH "^[0-9]+[a-z]?" number "${architecture}")
  if(NOT architecture MATCHES "-virtual$")
    list(APPEND machine_code ${number})
  endif()
  if(NOT architecture MATCHES "-real$")
    list(APPEND ptx ${number})
  endif()
endforeach()
list(JOIN machine_code ", " cuda_architectures)
if(ptx)
  list(JOIN ptx ", " ptx)
  string(APPEND cuda_architectures "; PTX ${ptx}")
endif()

configure_file(${source_dir}/engine/build_info.cc.in ${output} @ONLY)
