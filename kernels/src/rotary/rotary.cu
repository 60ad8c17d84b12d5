//! Rotary position embedding in place: a thread turns a pack of pairs of one head at a time.

#include "../cuda/numbers.cuh"

constexpr int BLOCK = 256;

/// PACK numbers of the first half of what is turned of a head, and those of the second half that belong to them.
template <typename T, int PACK>
__device__ __forceinline__ void
halves(T* values, const u32* positions, const float* cosines, const float* sines, u32 stride, u32 heads, u32 head_size,
       u32 pairs, u64 packs) {
    const u32 packs_of_head = pairs / PACK;
    const u32 packs_of_row = packs_of_head * heads;
    for (u64 pack = first_pack(); pack < packs; pack += pack_step()) {
        const u32 row = static_cast<u32>(pack) / packs_of_row;
        const u32 in_row = static_cast<u32>(pack) - row * packs_of_row;
        const u32 head = in_row / packs_of_head;
        const u32 pair = (in_row - head * packs_of_head) * PACK;
        T* at = values + static_cast<u64>(row) * stride + head * head_size + pair;
        const u64 angle = static_cast<u64>(positions[row]) * pairs + pair;
        float a[PACK], b[PACK], cosine[PACK], sine[PACK], first[PACK], second[PACK];
        load<PACK>(a, at);
        load<PACK>(b, at + pairs);
        load<PACK>(cosine, cosines + angle);
        load<PACK>(sine, sines + angle);
#pragma unroll
        for (int index = 0; index < PACK; ++index) {
            first[index] = a[index] * cosine[index] - b[index] * sine[index];
            second[index] = b[index] * cosine[index] + a[index] * sine[index];
        }
        store<PACK>(at, first);
        store<PACK>(at + pairs, second);
    }
}

/// PACK numbers, of which neighbors are pairs. The tables have a number for each; the sine of a pair's first is negated.
template <typename T, int PACK>
__device__ __forceinline__ void
adjacent(T* values, const u32* positions, const float* cosines, const float* sines, u32 stride, u32 heads, u32 head_size,
         u32 pairs, u64 packs) {
    const u32 packs_of_head = 2 * pairs / PACK;
    const u32 packs_of_row = packs_of_head * heads;
    for (u64 pack = first_pack(); pack < packs; pack += pack_step()) {
        const u32 row = static_cast<u32>(pack) / packs_of_row;
        const u32 in_row = static_cast<u32>(pack) - row * packs_of_row;
        const u32 head = in_row / packs_of_head;
        const u32 dimension = (in_row - head * packs_of_head) * PACK;
        T* at = values + static_cast<u64>(row) * stride + head * head_size + dimension;
        const u64 angle = static_cast<u64>(positions[row]) * 2 * pairs + dimension;
        float from[PACK], cosine[PACK], sine[PACK], turned[PACK];
        load<PACK>(from, at);
        load<PACK>(cosine, cosines + angle);
        load<PACK>(sine, sines + angle);
#pragma unroll
        for (int index = 0; index < PACK; ++index) {
            turned[index] = from[index] * cosine[index] + from[index ^ 1] * sine[index];
        }
        store<PACK>(at, turned);
    }
}

/// The narrow accesses of `adjacent` are those of a pair, one number at a time.
template <typename T>
__device__ __forceinline__ void
adjacent_pairs(T* values, const u32* positions, const float* cosines, const float* sines, u32 stride, u32 heads, u32 head_size,
               u32 pairs, u64 packs) {
    const u32 pairs_of_row = pairs * heads;
    for (u64 pack = first_pack(); pack < packs; pack += pack_step()) {
        const u32 row = static_cast<u32>(pack) / pairs_of_row;
        const u32 in_row = static_cast<u32>(pack) - row * pairs_of_row;
        const u32 head = in_row / pairs;
        const u32 dimension = (in_row - head * pairs) * 2;
        T* at = values + static_cast<u64>(row) * stride + head * head_size + dimension;
        const u64 angle = static_cast<u64>(positions[row]) * 2 * pairs + dimension;
        const float a = widen(at[0]), b = widen(at[1]);
        at[0] = narrow<T>(a * cosines[angle] + b * sines[angle]);
        at[1] = narrow<T>(b * cosines[angle + 1] + a * sines[angle + 1]);
    }
}

#define ROTARY(NAME, T, TURN)                                                                                               \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                     \
        NAME(T* values, const u32* positions, const float* cosines, const float* sines, u32 stride, u32 heads, u32 head_size, \
             u32 pairs, u32 packs) {                                                                                        \
        TURN(values, positions, cosines, sines, stride, heads, head_size, pairs, packs);                                    \
    }
#define ROTARIES(TYPE, T, WIDE)                                        \
    ROTARY(rotary_halves_##TYPE##_wide, T, (halves<T, WIDE>))          \
    ROTARY(rotary_halves_##TYPE##_narrow, T, (halves<T, 1>))           \
    ROTARY(rotary_adjacent_##TYPE##_wide, T, (adjacent<T, WIDE>))      \
    ROTARY(rotary_adjacent_##TYPE##_narrow, T, (adjacent_pairs<T>))

ROTARIES(f32, float, 4)
ROTARIES(f16, __half, 8)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
ROTARIES(bf16, __nv_bfloat16, 8)
#endif
