// Programmatic dependent launch (sm_90 and later).
//
// The rule that keeps a chain of kernels correct: every kernel calls pdl_wait in every thread
// before it reads what an earlier kernel wrote and before it writes anything; what it does ahead of
// that is limited to weights, which no kernel of a step writes. As every kernel waits, the
// completion of one implies that of all before it. Launched without the programmatic attribute (the
// portable path), and on older architectures, both calls do nothing and the stream's order holds.
#pragma once

namespace engine::cuda {

// Waits until every grid this one depends on is complete and its writes are visible.
__device__ inline void pdl_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel of the stream start as soon as all blocks of this one have called this.
__device__ inline void pdl_launch_dependents() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

}  // namespace engine::cuda
