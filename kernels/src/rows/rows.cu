//! Rows that move, and numbers that change their type on the way. A thread takes a pack at a time.

#include "../cuda/numbers.cuh"

constexpr int BLOCK = 256;

/// Stands for no row.
constexpr u32 NONE = 0xffffffffu;

/// Output row i is input row `rows[i]`, or zeros.
template <int PACK>
__device__ __forceinline__ void
gather(const void* input, u32 input_type, const u32* rows, void* output, u32 output_type, u32 n, u64 packs) {
    const u32 packs_of_row = n / PACK;
    for (u64 pack = first_pack(); pack < packs; pack += pack_step()) {
        const u32 row = static_cast<u32>(pack) / packs_of_row;
        const u32 column = (static_cast<u32>(pack) - row * packs_of_row) * PACK;
        const u32 from = rows[row];
        float numbers[PACK] = {};
        if (from != NONE) {
            load_typed<PACK>(numbers, input, input_type, static_cast<u64>(from) * n + column);
        }
        store_typed<PACK>(output, output_type, pack * PACK, numbers);
    }
}

/// Output row `rows[i]` is input row i, which goes nowhere if there is no such row.
template <int PACK>
__device__ __forceinline__ void
scatter(const void* input, u32 input_type, const u32* rows, void* output, u32 output_type, u32 n, u64 packs) {
    const u32 packs_of_row = n / PACK;
    for (u64 pack = first_pack(); pack < packs; pack += pack_step()) {
        const u32 row = static_cast<u32>(pack) / packs_of_row;
        const u32 column = (static_cast<u32>(pack) - row * packs_of_row) * PACK;
        const u32 to = rows[row];
        if (to != NONE) {
            float numbers[PACK];
            load_typed<PACK>(numbers, input, input_type, pack * PACK);
            store_typed<PACK>(output, output_type, static_cast<u64>(to) * n + column, numbers);
        }
    }
}

#define MOVE(NAME, OPERATION, PACK)                                                                                       \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                   \
        NAME(const void* input, u32 input_type, const u32* rows, void* output, u32 output_type, u32 n, u32 packs) {       \
        OPERATION<PACK>(input, input_type, rows, output, output_type, n, packs);                                          \
    }

MOVE(gather_rows_wide, gather, 8)
MOVE(gather_rows_narrow, gather, 1)
MOVE(scatter_rows_wide, scatter, 8)
MOVE(scatter_rows_narrow, scatter, 1)

/// Numbers in their order. Packs are whole but for the last one, whose numbers are taken one by one.
template <int PACK>
__device__ __forceinline__ void convert(const void* input, u32 input_type, void* output, u32 output_type, u64 count) {
    for (u64 start = first_pack() * PACK; start < count; start += pack_step() * PACK) {
        if (start + PACK <= count) {
            float numbers[PACK];
            load_typed<PACK>(numbers, input, input_type, start);
            store_typed<PACK>(output, output_type, start, numbers);
        } else {
            for (u64 index = start; index < count; ++index) {
                float number[1];
                load_typed<1>(number, input, input_type, index);
                store_typed<1>(output, output_type, index, number);
            }
        }
    }
}

#define CONVERT(NAME, PACK)                                                                   \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                       \
        NAME(const void* input, u32 input_type, void* output, u32 output_type, u64 count) {   \
        convert<PACK>(input, input_type, output, output_type, count);                         \
    }

CONVERT(convert_wide, 8)
CONVERT(convert_narrow, 1)
