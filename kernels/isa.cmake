# engine_isa_source(FILE FLAGS...): compiles one source file of this directory with instruction-set
# flags of its own, e.g. engine_isa_source(cpu/linear_avx2.cc -mavx2 -mfma -mf16c). Everything else
# stays at the compiler's baseline (never -march=native), and the code in FILE runs only where the
# CPU was seen to have the instructions.
#
# Such a file must not emit code that the linker may share with baseline files: inline functions
# and templates instantiated in both are merged, and the copy kept may be the one that an older CPU
# can't run. So it keeps its helpers in an anonymous namespace or force-inlined, and includes no
# containers or algorithms. tests/hygiene/isa_symbols.cmake checks the object files in optimised
# builds.
function(engine_isa_source file)
  set_property(SOURCE ${file} APPEND PROPERTY COMPILE_OPTIONS ${ARGN})
  get_filename_component(name ${file} NAME)
  set_property(GLOBAL APPEND PROPERTY ENGINE_ISA_SOURCES ${name})
endfunction()
