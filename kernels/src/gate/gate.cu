//! Gating: a thread takes a pack of both halves of a row at a time.

#include "../activation/activation.cuh"

constexpr int BLOCK = 256;

template <typename T, int PACK> __device__ __forceinline__ void gate(const T* input, T* output, u32 n, u32 kind, u32 packs) {
    const u32 packs_of_row = n / PACK;
    for (u64 pack = first_pack(); pack < packs; pack += pack_step()) {
        const u32 row = static_cast<u32>(pack) / packs_of_row;
        const u32 column = (static_cast<u32>(pack) - row * packs_of_row) * PACK;
        const T* from = input + static_cast<u64>(row) * 2 * n + column;
        float activated[PACK], other[PACK];
        load<PACK>(activated, from);
        load<PACK>(other, from + n);
        activate_pack<PACK>(activated, kind);
#pragma unroll
        for (int index = 0; index < PACK; ++index) {
            activated[index] *= other[index];
        }
        store<PACK>(output + pack * PACK, activated);
    }
}

#define GATE(NAME, T, PACK)                                                                                           \
    extern "C" __global__ void __launch_bounds__(BLOCK) NAME(const T* input, T* output, u32 n, u32 kind, u32 packs) { \
        gate<T, PACK>(input, output, n, kind, packs);                                                                 \
    }
#define GATES(TYPE, T, WIDE)          \
    GATE(gate_##TYPE##_wide, T, WIDE) \
    GATE(gate_##TYPE##_narrow, T, 1)

GATES(f32, float, 4)
GATES(f16, __half, 8)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
GATES(bf16, __nv_bfloat16, 8)
#endif
