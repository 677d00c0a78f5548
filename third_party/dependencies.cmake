# Every dependency the engine links, each with the least version it is known to work with. All of
# them come from the distribution (tools/install_deps.sh) or the CUDA Toolkit; nothing is vendored
# and nothing is fetched.
find_package(OpenMP 4.5 REQUIRED COMPONENTS CXX)
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(CLI11 2.1 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8>=10.40)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece>=0.1.97)
if(ENGINE_TESTS)
  find_package(doctest 2.4.9 REQUIRED)
endif()
