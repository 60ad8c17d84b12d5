//! Rows of numbers that a team of threads holds in its registers: sums over them and normalization.
#pragma once

#include "numbers.cuh"

/// The sum over a warp, the same in every lane.
template <typename T> __device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (u32 distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

/// The sum over THREADS threads, the same in each: a warp, or a whole block, which needs a place for each of its warps. Two
/// sums one behind the other need different places: threads may still read those of the first.
template <int THREADS, typename T> __device__ __forceinline__ T team_sum(T value, T* places) {
    value = warp_sum(value);
    if constexpr (THREADS > WARP) {
        if (threadIdx.x % WARP == 0) {
            places[threadIdx.x / WARP] = value;
        }
        __syncthreads();
        value = 0;
#pragma unroll
        for (int warp = 0; warp < THREADS / static_cast<int>(WARP); ++warp) {
            value += places[warp];
        }
    }
    return value;
}

/// Numbers of a row that a thread of a team keeps; longer rows are read three times. `launch.rs` gives a warp no row that
/// would not fit. Packs of one need an address each, and so more registers.
template <int PACK, int THREADS> constexpr int KEPT = (THREADS > static_cast<int>(WARP) ? 16 : 32) / (PACK == 1 ? 2 : 1);

/// The parameters of a normalization; without a weight there is none.
struct NormParameters {
    const float* weight;
    const float* bias;
    float eps;
};

/// Normalizes one pack of a row.
template <int PACK>
__device__ __forceinline__ void
normalize_pack(float (&values)[PACK], float mean, float scale, const NormParameters& norm, u32 column) {
    float weight[PACK];
    load<PACK>(weight, norm.weight + column);
#pragma unroll
    for (int index = 0; index < PACK; ++index) {
        values[index] = (values[index] - mean) * scale * weight[index];
    }
    if (norm.bias != nullptr) {
        float bias[PACK];
        load<PACK>(bias, norm.bias + column);
#pragma unroll
        for (int index = 0; index < PACK; ++index) {
            values[index] += bias[index];
        }
    }
}

/// Takes a row of `n` numbers, a multiple of PACK, through a normalization, if there is one. `source(pack, column)` loads,
/// `keep(pack, column)` gets what was loaded and `sink(pack, column)` what came out; a pack's `keep` and `sink` follow its last
/// `source`, in the same thread. `places` is shared memory for the sums of a block: twice its warps. Without
/// IN_REGISTERS rows are read three times however short they are, by less code.
template <int PACK, int THREADS, bool IN_REGISTERS = true, typename Source, typename Keep, typename Sink>
__device__ __forceinline__ void
take_row(u32 thread, u32 n, const NormParameters& norm, float* places, Source source, Keep keep, Sink sink) {
    constexpr int SLOTS = KEPT<PACK, THREADS> / PACK;
    constexpr int WARPS = THREADS / static_cast<int>(WARP);
    const u32 step = THREADS * PACK;
    const u32 first = thread * PACK;
    const float count = static_cast<float>(n);
    if (IN_REGISTERS && (THREADS == WARP || n <= SLOTS * step)) {
        float values[SLOTS][PACK] = {};
        float sum = 0;
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            if (first + slot * step < n) {
                source(values[slot], first + slot * step);
            }
        }
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            if (first + slot * step < n) {
                keep(values[slot], first + slot * step);
            }
#pragma unroll
            for (int index = 0; index < PACK; ++index) {
                sum += values[slot][index];
            }
        }
        float mean = 0, scale = 1;
        if (norm.weight != nullptr) {
            mean = team_sum<THREADS>(sum, places) / count;
            float squares = 0;
#pragma unroll
            for (int slot = 0; slot < SLOTS; ++slot) {
                if (first + slot * step < n) {
#pragma unroll
                    for (int index = 0; index < PACK; ++index) {
                        const float difference = values[slot][index] - mean;
                        squares += difference * difference;
                    }
                }
            }
            scale = 1.0f / sqrtf(team_sum<THREADS>(squares, places + WARPS) / count + norm.eps);
        }
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            const u32 column = first + slot * step;
            if (column < n) {
                if (norm.weight != nullptr) {
                    normalize_pack<PACK>(values[slot], mean, scale, norm, column);
                }
                sink(values[slot], column);
            }
        }
        return;
    }
    float mean = 0, scale = 1;
    if (norm.weight != nullptr) {
        float sum = 0;
        for (u32 column = first; column < n; column += step) {
            float values[PACK];
            source(values, column);
#pragma unroll
            for (int index = 0; index < PACK; ++index) {
                sum += values[index];
            }
        }
        mean = team_sum<THREADS>(sum, places) / count;
        float squares = 0;
        for (u32 column = first; column < n; column += step) {
            float values[PACK];
            source(values, column);
#pragma unroll
            for (int index = 0; index < PACK; ++index) {
                const float difference = values[index] - mean;
                squares += difference * difference;
            }
        }
        scale = 1.0f / sqrtf(team_sum<THREADS>(squares, places + WARPS) / count + norm.eps);
    }
    for (u32 column = first; column < n; column += step) {
        float values[PACK];
        source(values, column);
        keep(values, column);
        if (norm.weight != nullptr) {
            normalize_pack<PACK>(values, mean, scale, norm, column);
        }
        sink(values, column);
    }
}
