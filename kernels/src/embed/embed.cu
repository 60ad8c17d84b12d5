//! Sums of rows of tables, normalized in the same launch where asked: a warp for a short row, a block for a long one.

#include "../cuda/row.cuh"

constexpr int ROWS_BLOCK = 128;
constexpr int ROW_BLOCK = 256;

/// A table and which of its rows are wanted: one for each row of the output, or the same for all where `ids` is null.
struct Lookup {
    const void* table;
    const u32* ids;
    u32 id;
    u32 type;
};

/// Stands for tables of different types, which are told at run time. Their code is long, and not repeated for every number
/// that a thread would keep.
struct Any {};

template <int PACK, typename T> __device__ __forceinline__ void load_row(float (&into)[PACK], const Lookup& lookup, u64 index) {
    load<PACK>(into, static_cast<const T*>(lookup.table) + index);
}
template <> __device__ __forceinline__ void load_row<1, Any>(float (&into)[1], const Lookup& lookup, u64 index) {
    load_typed<1>(into, lookup.table, lookup.type, index);
}

template <typename T, int PACK, int THREADS>
__device__ __forceinline__ void
embed(Lookup a, Lookup b, Lookup c, NormParameters norm, void* output, u32 type, u32 rows, u32 n) {
    __shared__ float places[2 * THREADS / WARP];
    constexpr u32 TOGETHER = THREADS == WARP ? ROWS_BLOCK / WARP : 1;
    const u32 thread = threadIdx.x % THREADS;
    const u64 first = static_cast<u64>(blockIdx.x) * TOGETHER + threadIdx.x / THREADS;
    const u64 step = static_cast<u64>(gridDim.x) * TOGETHER;
    const auto start = [&](const Lookup& lookup, u64 row) {
        return static_cast<u64>(lookup.ids == nullptr ? lookup.id : lookup.ids[row]) * n;
    };
    for (u64 row = first; row < rows; row += step) {
        // A missing table is never looked into.
        const u64 in_a = start(a, row);
        const u64 in_b = b.table == nullptr ? 0 : start(b, row);
        const u64 in_c = c.table == nullptr ? 0 : start(c, row);
        const auto add = [](float(&values)[PACK], const Lookup& lookup, u64 index) {
            float other[PACK];
            load_row<PACK, T>(other, lookup, index);
#pragma unroll
            for (int each = 0; each < PACK; ++each) {
                values[each] += other[each];
            }
        };
        take_row<PACK, THREADS, PACK != 1>(
            thread, n, norm, places,
            [&](float(&values)[PACK], u32 column) {
                load_row<PACK, T>(values, a, in_a + column);
                if (b.table != nullptr) {
                    add(values, b, in_b + column);
                }
                if (c.table != nullptr) {
                    add(values, c, in_c + column);
                }
            },
            [](const float(&)[PACK], u32) {},
            [&](const float(&values)[PACK], u32 column) { store_typed<PACK>(output, type, row * n + column, values); });
    }
}

#define EMBED(NAME, T, PACK, THREADS, BLOCK)                                                                                     \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                          \
        NAME(const void* table_a, const u32* ids_a, u32 id_a, u32 type_a, const void* table_b, const u32* ids_b, u32 id_b,       \
             u32 type_b, const void* table_c, const u32* ids_c, u32 id_c, u32 type_c, const float* weight, const float* bias,    \
             float eps, void* output, u32 output_type, u32 rows, u32 n) {                                                        \
        embed<T, PACK, THREADS>({table_a, ids_a, id_a, type_a}, {table_b, ids_b, id_b, type_b}, {table_c, ids_c, id_c, type_c},  \
                                {weight, bias, eps}, output, output_type, rows, n);                                              \
    }
#define EMBEDS(TYPE, T, PACK)                                \
    EMBED(embed_warp_##TYPE, T, PACK, WARP, ROWS_BLOCK)      \
    EMBED(embed_block_##TYPE, T, PACK, ROW_BLOCK, ROW_BLOCK)

EMBEDS(f32_wide, float, 4)
EMBEDS(f16_wide, __half, 8)
EMBEDS(bf16_wide, __nv_bfloat16, 8)
EMBEDS(any_narrow, Any, 1)
