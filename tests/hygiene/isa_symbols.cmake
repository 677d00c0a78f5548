# Run by ctest (cmake -P) in optimised builds: fails when an object file compiled for a newer
# instruction set (`names`, of all `objects`) defines a symbol that the linker may merge with the
# same inline function or template of a baseline file. The copy it keeps could be the one that an
# older CPU can't run. kernels/isa.cmake says how to keep such files clean.
cmake_minimum_required(VERSION 3.25)
set(problems "")
set(checked 0)
foreach(object IN LISTS objects)
  get_filename_component(name ${object} NAME)
  string(REGEX REPLACE "\\.o$" "" name ${name})
  if(NOT name IN_LIST names)
    continue()
  endif()
  math(EXPR checked "${checked} + 1")
  execute_process(COMMAND ${nm} --defined-only --demangle ${object}
    OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[0-9a-f]+ [WVu] [^\n]+" shared "${symbols}")
  foreach(symbol IN LISTS shared)
    string(REGEX REPLACE "^[0-9a-f]+ . " "" symbol "${symbol}")
    string(APPEND problems "  ${name}: ${symbol}\n")
  endforeach()
endforeach()
list(LENGTH names expected)
if(NOT checked EQUAL expected)
  message(FATAL_ERROR "found ${checked} object files of ${expected}: ${names}")
elseif(problems)
  message(FATAL_ERROR "symbols that the linker may share with baseline code:\n${problems}")
endif()
message("${checked} object files share no symbol")
