//! Layer normalization of the sum of two tensors: a warp for a short row, a block for a long one.

#include "../cuda/row.cuh"

/// Threads of a block in which every warp has a row of its own, and of one that has one row.
constexpr int ROWS_BLOCK = 128;
constexpr int ROW_BLOCK = 256;

template <typename T, int PACK, int THREADS>
__device__ __forceinline__ void
norm(const T* input, const T* residual, NormParameters parameters, T* sum, void* output, u32 output_type, u32 rows, u32 n) {
    __shared__ float places[2 * THREADS / WARP];
    constexpr u32 TOGETHER = THREADS == WARP ? ROWS_BLOCK / WARP : 1;
    const u32 thread = threadIdx.x % THREADS;
    const u64 first = static_cast<u64>(blockIdx.x) * TOGETHER + threadIdx.x / THREADS;
    const u64 step = static_cast<u64>(gridDim.x) * TOGETHER;
    for (u64 row = first; row < rows; row += step) {
        const u64 start = row * n;
        take_row<PACK, THREADS>(
            thread, n, parameters, places,
            [&](float (&values)[PACK], u32 column) {
                load<PACK>(values, input + start + column);
                if (residual != nullptr) {
                    float other[PACK];
                    load<PACK>(other, residual + start + column);
#pragma unroll
                    for (int index = 0; index < PACK; ++index) {
                        values[index] += other[index];
                    }
                }
            },
            [&](const float (&values)[PACK], u32 column) {
                if (sum != nullptr) {
                    store<PACK>(sum + start + column, values);
                }
            },
            [&](const float (&values)[PACK], u32 column) { store_typed<PACK>(output, output_type, start + column, values); });
    }
}

#define NORM(NAME, T, PACK, THREADS, BLOCK)                                                                              \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                  \
        NAME(const T* input, const T* residual, const float* weight, const float* bias, float eps, T* sum, void* output, \
             u32 output_type, u32 rows, u32 n) {                                                                         \
        norm<T, PACK, THREADS>(input, residual, {weight, bias, eps}, sum, output, output_type, rows, n);                 \
    }
#define NORMS(TYPE, T, WIDE)                                      \
    NORM(norm_warp_##TYPE##_wide, T, WIDE, WARP, ROWS_BLOCK)      \
    NORM(norm_warp_##TYPE##_narrow, T, 1, WARP, ROWS_BLOCK)       \
    NORM(norm_block_##TYPE##_wide, T, WIDE, ROW_BLOCK, ROW_BLOCK) \
    NORM(norm_block_##TYPE##_narrow, T, 1, ROW_BLOCK, ROW_BLOCK)

NORMS(f32, float, 4)
NORMS(f16, __half, 8)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
NORMS(bf16, __nv_bfloat16, 8)
#endif
