//! Activations in place, of numbers or of rows plus a bias. A thread takes a pack at a time.

#include "activation.cuh"

constexpr int BLOCK = 256;

/// `n` is the width of the bias, and of nothing without one.
template <typename T, int PACK>
__device__ __forceinline__ void activate(T* values, const T* bias, u32 n, u32 kind, u64 packs) {
    const u32 packs_of_row = n / PACK;
    for (u64 pack = first_pack(); pack < packs; pack += pack_step()) {
        float numbers[PACK];
        load<PACK>(numbers, values + pack * PACK);
        if (bias != nullptr) {
            float added[PACK];
            load<PACK>(added, bias + static_cast<u32>(pack) % packs_of_row * PACK);
#pragma unroll
            for (int index = 0; index < PACK; ++index) {
                numbers[index] += added[index];
            }
        }
        activate_pack<PACK>(numbers, kind);
        store<PACK>(values + pack * PACK, numbers);
    }
}

#define ACTIVATE(NAME, T, PACK)                                                                                              \
    extern "C" __global__ void __launch_bounds__(BLOCK) NAME(T* values, const T* bias, u32 n, u32 kind, u32 packs) {         \
        activate<T, PACK>(values, bias, n, kind, packs);                                                                     \
    }
#define ACTIVATES(TYPE, T, WIDE)              \
    ACTIVATE(activate_##TYPE##_wide, T, WIDE) \
    ACTIVATE(activate_##TYPE##_narrow, T, 1)

ACTIVATES(f32, float, 4)
ACTIVATES(f16, __half, 8)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
ACTIVATES(bf16, __nv_bfloat16, 8)
#endif
