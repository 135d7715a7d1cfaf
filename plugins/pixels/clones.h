// A function is compiled twice, and the loader takes the one that this processor runs best.
#pragma once

#if defined(__x86_64__) && defined(__gnu_linux__)
#define DEGMIX_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define DEGMIX_CLONES
#endif

// Of what a clone calls: else it would be compiled once, for the oldest processor.
#define DEGMIX_INLINE inline __attribute__((always_inline))
