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

/// The sum of a pack, and that of its squared differences from a mean.
template <int PACK> __device__ __forceinline__ float pack_sum(const float (&values)[PACK]) {
    float sum = 0;
#pragma unroll
    for (int index = 0; index < PACK; ++index) {
        sum += values[index];
    }
    return sum;
}
template <int PACK> __device__ __forceinline__ float pack_squares(const float (&values)[PACK], float mean) {
    float squares = 0;
#pragma unroll
    for (int index = 0; index < PACK; ++index) {
        const float difference = values[index] - mean;
        squares += difference * difference;
    }
    return squares;
}

/// What a thread does in a row of `n` numbers: it takes packs from column `first` on, `step` columns apart.
struct Part {
    u32 n;
    u32 first;
    u32 step;
};

/// `take_row` for rows that the team's registers hold.
template <int PACK, int THREADS, typename Source, typename Keep, typename Sink>
__device__ __forceinline__ void
take_kept_row(Part part, const NormParameters& norm, float* places, Source source, Keep keep, Sink sink) {
    constexpr int SLOTS = KEPT<PACK, THREADS> / PACK;
    float values[SLOTS][PACK] = {};
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        const u32 column = part.first + slot * part.step;
        if (column < part.n) {
            source(values[slot], column);
        }
    }
    float sum = 0;
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        const u32 column = part.first + slot * part.step;
        if (column < part.n) {
            keep(values[slot], column);
        }
        // Slots behind the row are zeros.
        sum += pack_sum(values[slot]);
    }
    float mean = 0, scale = 1;
    if (norm.weight != nullptr) {
        const float count = static_cast<float>(part.n);
        mean = team_sum<THREADS>(sum, places) / count;
        float squares = 0;
#pragma unroll
        for (int slot = 0; slot < SLOTS; ++slot) {
            if (part.first + slot * part.step < part.n) {
                squares += pack_squares(values[slot], mean);
            }
        }
        scale = 1.0f / sqrtf(team_sum<THREADS>(squares, places + THREADS / WARP) / count + norm.eps);
    }
#pragma unroll
    for (int slot = 0; slot < SLOTS; ++slot) {
        const u32 column = part.first + slot * part.step;
        if (column < part.n) {
            if (norm.weight != nullptr) {
                normalize_pack(values[slot], mean, scale, norm, column);
            }
            sink(values[slot], column);
        }
    }
}

/// `take_row` for any row, which is read three times.
template <int PACK, int THREADS, typename Source, typename Keep, typename Sink>
__device__ __forceinline__ void
take_long_row(Part part, const NormParameters& norm, float* places, Source source, Keep keep, Sink sink) {
    float mean = 0, scale = 1;
    if (norm.weight != nullptr) {
        const float count = static_cast<float>(part.n);
        float sum = 0, squares = 0;
        for (u32 column = part.first; column < part.n; column += part.step) {
            float values[PACK];
            source(values, column);
            sum += pack_sum(values);
        }
        mean = team_sum<THREADS>(sum, places) / count;
        for (u32 column = part.first; column < part.n; column += part.step) {
            float values[PACK];
            source(values, column);
            squares += pack_squares(values, mean);
        }
        scale = 1.0f / sqrtf(team_sum<THREADS>(squares, places + THREADS / WARP) / count + norm.eps);
    }
    for (u32 column = part.first; column < part.n; column += part.step) {
        float values[PACK];
        source(values, column);
        keep(values, column);
        if (norm.weight != nullptr) {
            normalize_pack(values, mean, scale, norm, column);
        }
        sink(values, column);
    }
}

/// Takes a row of `n` numbers, a multiple of PACK, through a normalization, if there is one. `source(pack, column)` loads,
/// `keep(pack, column)` gets what was loaded and `sink(pack, column)` what came out; a pack's `keep` and `sink` follow its last
/// `source`, in the same thread. `places` is shared memory for the sums of a block: twice its warps. Without
/// IN_REGISTERS rows are read three times however short they are, by less code.
template <int PACK, int THREADS, bool IN_REGISTERS = true, typename Source, typename Keep, typename Sink>
__device__ __forceinline__ void
take_row(u32 thread, u32 n, const NormParameters& norm, float* places, Source source, Keep keep, Sink sink) {
    const Part part = {n, thread * PACK, THREADS * PACK};
    if constexpr (IN_REGISTERS && THREADS == WARP) {
        take_kept_row<PACK, THREADS>(part, norm, places, source, keep, sink);
    } else if (IN_REGISTERS && n <= KEPT<PACK, THREADS> * THREADS) {
        take_kept_row<PACK, THREADS>(part, norm, places, source, keep, sink);
    } else {
        take_long_row<PACK, THREADS>(part, norm, places, source, keep, sink);
    }
}
