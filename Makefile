# Thin: what a newcomer types. Everything else is CMake (see CMakePresets.json).
DEMO_MODEL ?= models/stories-3m
DEMO_PROMPT ?= Once upon a time
BENCH ?= all
JOBS ?= $(shell nproc)

.PHONY: help demo bench test test-cpu test-cuda deps format tidy clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    build for the CPU and stream a story from $(DEMO_MODEL)"
	@echo "make test    build and run every test, for the CPU and, where nvcc is found, for CUDA"
	@echo "make bench   build with CUDA where nvcc is found and measure BENCH=$(BENCH); see engine_bench --list"
	@echo "make format  clang-format the tree"
	@echo "make tidy    clang-tidy the tree"
	@echo "make clean   remove build/"
	@echo "JOBS=N limits the parallel jobs (now $(JOBS))"

# The story alone goes to stdout: the prompt, then what the model makes of it.
demo: deps
	@cmake --preset cpu >&2
	@cmake --build --preset cpu -j $(JOBS) --target engine_generate >&2
	@printf '%s' "$(DEMO_PROMPT)"
	@build/cpu/bin/engine_generate $(DEMO_MODEL) -p "$(DEMO_PROMPT)" -n 480

# The table alone goes to stdout. BENCH="llama-1b --int8 --device cpu" is one for a small machine.
bench: deps
	@cmake --preset default >&2
	@cmake --build --preset default -j $(JOBS) --target engine_bench >&2
	@build/default/bin/engine_bench $(BENCH)

# Tests labelled "host" use no code that ENGINE_CUDA changes: once they have passed in the CPU
# configuration, the CUDA one leaves them out. make test-cuda by itself runs them too.
test: deps test-cpu
	@nvcc=$$(cmake -P third_party/find_nvcc.cmake); \
	case "$$nvcc" in \
	  found:*) $(MAKE) --no-print-directory test-cuda CTEST_ARGS="-LE host" ;; \
	  *) echo "CUDA: skipped ($${nvcc#not found: })" ;; \
	esac

test-cpu test-cuda: test-%: deps
	cmake --preset $*
	cmake --build --preset $* -j $(JOBS)
	ctest --preset $* -j $(JOBS) $(CTEST_ARGS)

deps:
	@tools/install_deps.sh

format:
	git ls-files -z '*.h' '*.cc' '*.cu' '*.cuh' | xargs -0 clang-format -i

# CPU code alone: clang would need a CUDA version that it knows.
tidy: deps
	cmake --preset cpu
	cmake --build --preset cpu -j $(JOBS) --target engine_write_build_info
	run-clang-tidy -quiet -p build/cpu -j $(JOBS) '^$(CURDIR)/(quant|kernels|engine|bench|tests)/'

clean:
	rm -rf build
