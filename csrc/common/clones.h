// One binary, the best vector unit of the machine: a function marked XAI_CLONES is compiled once
// per instruction set and chosen at load time. It must be a plain function over __restrict
// pointers; a lambda or an outlined OpenMP body inside it would not be cloned.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(XAI_NO_CLONES)
#define XAI_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define XAI_CLONES
#endif
