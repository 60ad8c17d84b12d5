//! Pooling: a block has a sequence, and takes it through all modes and the normalization.
//!
//! Lanes share columns, a tile of 32 packs at a time, and warps share rows; what the warps found is put together in shared
//! memory. The thread that writes a component reads it again where it is normalized, so no other needs to see it.

#include <math_constants.h>

#include "../cuda/row.cuh"

constexpr int BLOCK = 256;
constexpr u32 WARPS = BLOCK / WARP;

/// Rows that a warp loads before it uses the first.
constexpr u32 AHEAD = 4;

/// As `code` in pool/cuda.rs has it.
enum Mode : u32 { CLS = 0, MAX = 1, MEAN = 2, MEAN_SQRT_LEN = 3, WEIGHTED_MEAN = 4, LAST = 5 };
constexpr u32 MODE_BITS = 4;

/// How a warp's rows of a tile become one.
template <u32 MODE, typename T, int PACK>
__device__ __forceinline__ void
fold(float (&folded)[PACK], float& weights, const T* column, u32 n, const u32* columns, u32 start, u32 end) {
#pragma unroll
    for (int index = 0; index < PACK; ++index) {
        folded[index] = MODE == MAX ? -CUDART_INF_F : 0.0f;
    }
    const auto take = [&](const float(&values)[PACK], u32 row) {
        const float weight = MODE == WEIGHTED_MEAN ? static_cast<float>(columns[row] - columns[start] + 1) : 1.0f;
        weights += weight;
#pragma unroll
        for (int index = 0; index < PACK; ++index) {
            if constexpr (MODE == MAX) {
                folded[index] = fmaxf(folded[index], values[index]);
            } else if constexpr (MODE == WEIGHTED_MEAN) {
                folded[index] += weight * values[index];
            } else {
                folded[index] += values[index];
            }
        }
    };
    u32 row = start + threadIdx.x / WARP;
    for (; row + (AHEAD - 1) * WARPS < end; row += AHEAD * WARPS) {
        float values[AHEAD][PACK];
#pragma unroll
        for (u32 next = 0; next < AHEAD; ++next) {
            load<PACK>(values[next], column + static_cast<u64>(row + next * WARPS) * n);
        }
#pragma unroll
        for (u32 next = 0; next < AHEAD; ++next) {
            take(values[next], row + next * WARPS);
        }
    }
    for (; row < end; row += WARPS) {
        float values[PACK];
        load<PACK>(values, column + static_cast<u64>(row) * n);
        take(values, row);
    }
}

/// Numbers from one row of `parts` to the next: such that neither lanes that write a number each nor threads that read a
/// component each meet in a bank.
template <int PACK> constexpr u32 STRIDE = WARP + WARP / PACK;

/// One mode of one sequence with at least one row. Returns the squares of what this thread wrote.
template <u32 MODE, typename T, int PACK>
__device__ __forceinline__ double
folded_mode(const T* hidden, u32 n, u32 start, u32 end, const u32* columns, float* output,
            float (*parts)[STRIDE<PACK> * PACK], float* weights) {
    constexpr u32 TILE = WARP * PACK;
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    double squares = 0;
    for (u32 tile = 0; tile < n; tile += TILE) {
        float folded[PACK] = {};
        float weight = 0;
        if (tile + lane * PACK < n) {
            fold<MODE>(folded, weight, hidden + tile + lane * PACK, n, columns, start, end);
        }
#pragma unroll
        for (int index = 0; index < PACK; ++index) {
            parts[warp][index * STRIDE<PACK> + lane] = folded[index];
        }
        if (lane == 0) {
            weights[warp] = weight;
        }
        __syncthreads();
        if (threadIdx.x < TILE && tile + threadIdx.x < n) {
            float value = MODE == MAX ? -CUDART_INF_F : 0.0f;
            float total = 0;
#pragma unroll
            for (u32 from = 0; from < WARPS; ++from) {
                const float part = parts[from][threadIdx.x % PACK * STRIDE<PACK> + threadIdx.x / PACK];
                value = MODE == MAX ? fmaxf(value, part) : value + part;
                total += weights[from];
            }
            if constexpr (MODE != MAX) {
                value /= MODE == MEAN_SQRT_LEN ? sqrtf(total) : total;
            }
            output[tile + threadIdx.x] = value;
            squares += static_cast<double>(value) * value;
        }
        __syncthreads();
    }
    return squares;
}

/// The components of a tile belong to its first threads, whatever the mode is.
template <int PACK, typename Each> __device__ __forceinline__ void each_component(u32 n, Each each) {
    constexpr u32 TILE = WARP * PACK;
    if (threadIdx.x < TILE) {
        for (u32 column = threadIdx.x; column < n; column += TILE) {
            each(column);
        }
    }
}

/// What to divide a row of this length by. A length that is NaN makes the whole row NaN.
__device__ __forceinline__ double divisor(double squares) {
    const double length = sqrt(squares);
    return length < 1e-12 ? 1e-12 : length;
}

template <typename T, int PACK>
__device__ __forceinline__ void
pool(const T* hidden, u32 n, const u32* ranges, const u32* columns, u32 modes, u64 mode_list, u32 normalize, float* output) {
    __shared__ float parts[WARPS][STRIDE<PACK> * PACK];
    __shared__ float weights[WARPS];
    __shared__ double places[WARPS];
    const u32 start = ranges[2 * static_cast<u64>(blockIdx.x)], end = ranges[2 * static_cast<u64>(blockIdx.x) + 1];
    float* joined = output + static_cast<u64>(blockIdx.x) * modes * n;
    double squares = 0;
    for (u32 index = 0; index < modes; ++index) {
        float* one = joined + static_cast<u64>(index) * n;
        const u32 mode = mode_list >> index * MODE_BITS & ((1u << MODE_BITS) - 1);
        if (start >= end || mode == CLS || mode == LAST) {
            const u64 row = static_cast<u64>(mode == LAST ? end - 1 : start) * n;
            each_component<PACK>(n, [&](u32 column) {
                const float value = start >= end ? 0.0f : widen(hidden[row + column]);
                one[column] = value;
                squares += static_cast<double>(value) * value;
            });
        } else if (mode == MAX) {
            squares += folded_mode<MAX, T, PACK>(hidden, n, start, end, columns, one, parts, weights);
        } else if (mode == MEAN) {
            squares += folded_mode<MEAN, T, PACK>(hidden, n, start, end, columns, one, parts, weights);
        } else if (mode == MEAN_SQRT_LEN) {
            squares += folded_mode<MEAN_SQRT_LEN, T, PACK>(hidden, n, start, end, columns, one, parts, weights);
        } else {
            squares += folded_mode<WEIGHTED_MEAN, T, PACK>(hidden, n, start, end, columns, one, parts, weights);
        }
    }
    if (normalize != 0) {
        const double scale = 1.0 / divisor(team_sum<BLOCK>(squares, places));
        for (u32 index = 0; index < modes; ++index) {
            float* one = joined + static_cast<u64>(index) * n;
            each_component<PACK>(n, [&](u32 column) { one[column] = static_cast<float>(one[column] * scale); });
        }
    }
}

#define POOL(NAME, T, PACK)                                                                                        \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                            \
        NAME(const T* hidden, u32 n, const u32* ranges, const u32* columns, u32 modes, u64 mode_list, u32 normalize, \
             float* output) {                                                                                      \
        pool<T, PACK>(hidden, n, ranges, columns, modes, mode_list, normalize, output);                            \
    }
#define POOLS(TYPE, T, WIDE)          \
    POOL(pool_##TYPE##_wide, T, WIDE) \
    POOL(pool_##TYPE##_narrow, T, 1)

POOLS(f32, float, 4)
POOLS(f16, __half, 8)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
POOLS(bf16, __nv_bfloat16, 8)
#endif

/// Scales rows to unit length: a block has a row.
extern "C" __global__ void __launch_bounds__(BLOCK) normalize_f32(float* values, u32 rows, u32 n) {
    __shared__ double places[2][WARPS];
    u32 turn = 0;
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
        float* at = values + row * n;
        double squares = 0;
        for (u32 column = threadIdx.x; column < n; column += BLOCK) {
            squares += static_cast<double>(at[column]) * at[column];
        }
        const double scale = 1.0 / divisor(team_sum<BLOCK>(squares, places[turn]));
        for (u32 column = threadIdx.x; column < n; column += BLOCK) {
            at[column] = static_cast<float>(at[column] * scale);
        }
    }
}
