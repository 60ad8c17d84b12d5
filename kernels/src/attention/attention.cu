//! Entry points of attention; attention/cuda.rs says which is launched when, and checks what they rely on.

#include "flash.cuh"
#include "general.cuh"

using namespace attention;

/// What all kernels take. Addresses of queries, keys and values are those of head 0 of row 0.
#define PARAMETERS(T) \
    const T *query, uint32_t query_stride, const T *key, uint32_t key_stride, const T *value, uint32_t value_stride, \
        const uint32_t *spans, uint32_t tiles, uint32_t heads, float scale, uint32_t causal, int window, const float *table, \
        int reach, T *output
#define SETTING \
    const Setting setting { spans, tiles, heads, scale, causal != 0, window, table, reach }

#define FLASH(NAME, T, SIZE, WARPS, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS * 4 / WARPS) NAME(PARAMETERS(T)) { \
        SETTING; \
        flash<T, SIZE, WARPS>({query, query_stride}, {key, key_stride}, {value, value_stride}, setting, output); \
    }

#define GENERAL(NAME, T, SLICES, ROWS, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(32 * GENERAL_WARPS, BLOCKS) NAME( \
        PARAMETERS(T), uint32_t size, const T *position_keys, const T *position_queries, const uint32_t *rows, \
        int position_reach) { \
        SETTING; \
        const Positions<T> positions{position_keys, position_queries, rows, position_reach}; \
        general<T, SLICES, ROWS>( \
            {query, query_stride}, {key, key_stride}, {value, value_stride}, setting, positions, static_cast<int>(size), \
            output); \
    }

FLASH(attention_32_short_f16, __half, 32, 2, 3)
FLASH(attention_32_f16, __half, 32, 4, 4)
FLASH(attention_64_short_f16, __half, 64, 2, 3)
FLASH(attention_64_f16, __half, 64, 4, 3)
FLASH(attention_96_short_f16, __half, 96, 2, 3)
FLASH(attention_96_f16, __half, 96, 4, 3)
FLASH(attention_128_short_f16, __half, 128, 2, 2)
FLASH(attention_128_f16, __half, 128, 4, 2)
GENERAL(attention_general_f32, float, 4, 8, 3)
GENERAL(attention_general_f16, __half, 4, 8, 3)
GENERAL(attention_wide_f32, float, 8, 4, 3)
GENERAL(attention_wide_f16, __half, 8, 4, 3)

#if __CUDA_ARCH__ >= 800
FLASH(attention_32_short_bf16, __nv_bfloat16, 32, 2, 3)
FLASH(attention_32_bf16, __nv_bfloat16, 32, 4, 4)
FLASH(attention_64_short_bf16, __nv_bfloat16, 64, 2, 3)
FLASH(attention_64_bf16, __nv_bfloat16, 64, 4, 3)
FLASH(attention_96_short_bf16, __nv_bfloat16, 96, 2, 3)
FLASH(attention_96_bf16, __nv_bfloat16, 96, 4, 3)
FLASH(attention_128_short_bf16, __nv_bfloat16, 128, 2, 2)
FLASH(attention_128_bf16, __nv_bfloat16, 128, 4, 2)
GENERAL(attention_general_bf16, __nv_bfloat16, 4, 8, 3)
GENERAL(attention_wide_bf16, __nv_bfloat16, 8, 4, 3)
#endif
