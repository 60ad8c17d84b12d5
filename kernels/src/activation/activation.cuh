//! Activations of one number, in f32. At minus infinity they give the limit, where a formula would multiply infinity by 0.
#pragma once

#include "../cuda/numbers.cuh"

/// As `code` in activation/cuda.rs has it.
enum Activation : u32 { IDENTITY = 0, GELU = 1, GELU_TANH = 2, QUICK_GELU = 3, RELU = 4, SILU = 5, TANH = 6, SIGMOID = 7 };

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/// `x * factor`, 0 where x is minus infinity.
__device__ __forceinline__ float times(float x, float factor) { return x == -INFINITY ? 0.0f : x * factor; }

template <u32 KIND> __device__ __forceinline__ float activated(float x) {
    if constexpr (KIND == GELU) {
        return times(x, 0.5f + 0.5f * erff(x * 0.70710678118654752f));
    } else if constexpr (KIND == GELU_TANH) {
        // 1 + tanh(u) is 2 sigmoid(2u), which keeps its precision where u is far below 0.
        return times(x, sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x)));
    } else if constexpr (KIND == QUICK_GELU) {
        return times(x, sigmoid(1.702f * x));
    } else if constexpr (KIND == RELU) {
        return x < 0.0f ? 0.0f : x;
    } else if constexpr (KIND == SILU) {
        return times(x, sigmoid(x));
    } else if constexpr (KIND == TANH) {
        return tanhf(x);
    } else if constexpr (KIND == SIGMOID) {
        return sigmoid(x);
    } else {
        return x;
    }
}

template <u32 KIND, int PACK> __device__ __forceinline__ void activate_each(float (&values)[PACK]) {
#pragma unroll
    for (int index = 0; index < PACK; ++index) {
        values[index] = activated<KIND>(values[index]);
    }
}

/// Activates a pack; all threads of a launch go the same way.
template <int PACK> __device__ __forceinline__ void activate_pack(float (&values)[PACK], u32 kind) {
    switch (kind) {
    case GELU: activate_each<GELU>(values); break;
    case GELU_TANH: activate_each<GELU_TANH>(values); break;
    case QUICK_GELU: activate_each<QUICK_GELU>(values); break;
    case RELU: activate_each<RELU>(values); break;
    case SILU: activate_each<SILU>(values); break;
    case TANH: activate_each<TANH>(values); break;
    case SIGMOID: activate_each<SIGMOID>(values); break;
    default: break;
    }
}
