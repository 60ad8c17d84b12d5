//! Attention for any type, head size up to 256, bias and alignment, in f32 on ordinary cores.
//!
//! A block has one head of some queries and goes over the keys in tiles of 32: for scores each lane of a warp has one key, for
//! products with values one number of the head. Numbers of a head come to shared memory 32 at a time, so that shared memory
//! does not grow with head size where positions have vectors of their own. Scores are in units of log2.
//!
//! As in the fused kernel, the bits of a row depend on its span alone.
#pragma once

#include "mma.cuh"
#include "numbers.cuh"
#include "span.cuh"

namespace attention {

/// Row 0 of all heads, and numbers from row to row.
template <typename T>
struct Values {
    const T* values;
    uint32_t stride;
};

/// Vectors of relative positions, `[rows, heads * size]`, either may be null; `rows: [2 * reach + 1]`.
template <typename T>
struct Positions {
    const T* keys;
    const T* queries;
    const uint32_t* rows;
    int reach;
};

constexpr int GENERAL_WARPS = 4;
/// Keys of a tile, one per lane.
constexpr int LANES = 32;
/// Numbers of a head that are in shared memory at a time, and from one row to the next: rows of 16 bytes in different banks.
constexpr int SLICE = 32;
constexpr int STEP = SLICE + 4;

__device__ __forceinline__ float dot(float4 a, float4 b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/// A slice of rows that `source(row)` names, null for zeros: a warp takes a row at a time, a lane one of its numbers.
template <typename Source>
__device__ __forceinline__ void fill(float* to, int rows, int step, int first, int size, Source source) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 1
    for (int row = static_cast<int>(threadIdx.x) / 32; row < rows; row += GENERAL_WARPS) {
        const auto* from = source(row);
        to[row * step + lane] = from != nullptr && first + lane < size ? widen(from[first + lane]) : 0.0f;
    }
}

/// Shared memory of a block: with `SLICES` slices of a head at most and `ROWS` queries per warp.
template <int SLICES, int ROWS>
struct General {
    static constexpr int QUERIES = GENERAL_WARPS * ROWS;
    static constexpr int DISTANCES = QUERIES + LANES - 1;

    /// `[QUERIES, slices * SLICE]`.
    float* queries;
    /// `[QUERIES, LANES]`.
    float* weights;
    /// `[LANES, STEP]`, of keys or of values.
    float* keys;
    /// `[DISTANCES, STEP]` each.
    float* position_keys;
    float* position_queries;

    __device__ __forceinline__ General(float4* memory, int slices) {
        queries = reinterpret_cast<float*>(memory);
        weights = queries + QUERIES * slices * SLICE;
        keys = weights + QUERIES * LANES;
        position_keys = keys + LANES * STEP;
        position_queries = position_keys + DISTANCES * STEP;
    }

    /// One slice of the products of the warp's queries, from `own` on in the block, with the lane's key.
    __device__ __forceinline__ void score(
        float (&sums)[ROWS], int own, int lane, int slices, int slice, bool with_keys, bool with_queries) const {
#pragma unroll 1
        for (int part = 0; part < SLICE; part += 4) {
            const float4 key = *reinterpret_cast<const float4*>(keys + lane * STEP + part);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const int row = own + r;
                const float4 query =
                    *reinterpret_cast<const float4*>(queries + row * slices * SLICE + slice * SLICE + part);
                sums[r] = dot(query, key, sums[r]);
                // Distances from query to key, from that of the block's first query and the tile's last key on.
                const int place = (row - lane + LANES - 1) * STEP + part;
                if (with_keys) {
                    sums[r] = dot(query, *reinterpret_cast<const float4*>(position_keys + place), sums[r]);
                }
                if (with_queries) {
                    sums[r] = dot(key, *reinterpret_cast<const float4*>(position_queries + place), sums[r]);
                }
            }
        }
    }

    /// Adds weights times one slice of the values.
    __device__ __forceinline__ void add(float (&output)[ROWS], int own, int lane) const {
#pragma unroll 1
        for (int key = 0; key < LANES; key += 4) {
            float value[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                value[i] = keys[(key + i) * STEP + lane];
            }
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const float4 weight = *reinterpret_cast<const float4*>(weights + (own + r) * LANES + key);
                output[r] = dot(weight, make_float4(value[0], value[1], value[2], value[3]), output[r]);
            }
        }
    }
};

/// Attention of a block: `GENERAL_WARPS * ROWS` queries of a span, one head of at most `SLICES * SLICE` numbers.
template <typename T, int SLICES, int ROWS>
__device__ __forceinline__ void general(
    Values<T> query, Values<T> key, Values<T> value, const Setting& setting, const Positions<T>& positions, int size, T* output) {
    extern __shared__ float4 general_memory[];
    using Block = General<SLICES, ROWS>;
    const int slices = (size + SLICE - 1) / SLICE;
    const Block block(general_memory, slices);
    const Place place(setting, Block::QUERIES);
    if (place.first >= place.queries) {
        return;
    }
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int own = static_cast<int>(threadIdx.x) / 32 * ROWS;
    const int offset = place.head * size;
    const size_t width = static_cast<size_t>(setting.heads) * size;
    const Keys seen = place.seen(setting, place.first, min(place.first + Block::QUERIES, place.queries));
    const float scale = setting.scale * LOG2_E;
    const float* table = nullptr;
    if (setting.table != nullptr) {
        table = setting.table + static_cast<size_t>(place.head) * (2 * setting.reach + 1) + setting.reach;
    }

    for (int slice = 0; slice < slices; slice++) {
        fill(block.queries + slice * SLICE, Block::QUERIES, slices * SLICE, slice * SLICE, size, [&](int row) {
            const size_t from = place.query_row + static_cast<size_t>(place.first + row);
            return place.first + row < place.queries ? query.values + from * query.stride + offset : nullptr;
        });
    }
    float sums[SLICES][ROWS];
    float largest[ROWS];
    float total[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        largest[r] = -INFINITY;
        total[r] = 0.0f;
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            sums[slice][r] = 0.0f;
        }
    }

    for (int start = seen.begin / LANES * LANES; start < seen.end; start += LANES) {
        // Rows of keys and values beyond the span's are zeros.
        auto row_of = [&](const Values<T>& rows, int row) {
            const size_t from = place.key_row + static_cast<size_t>(start + row);
            return start + row < place.keys ? rows.values + from * rows.stride + offset : nullptr;
        };
        auto position_of = [&](const T* vectors, int index) {
            const int distance = place.first - start + index - (LANES - 1);
            const int clamped = max(-positions.reach, min(distance, positions.reach));
            return vectors + positions.rows[clamped + positions.reach] * width + offset;
        };
        float scores[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            scores[r] = 0.0f;
        }
        for (int slice = 0; slice < slices; slice++) {
            __syncthreads();
            fill(block.keys, LANES, STEP, slice * SLICE, size, [&](int row) { return row_of(key, row); });
            if (positions.keys != nullptr) {
                fill(block.position_keys, Block::DISTANCES, STEP, slice * SLICE, size,
                     [&](int index) { return position_of(positions.keys, index); });
            }
            if (positions.queries != nullptr) {
                fill(block.position_queries, Block::DISTANCES, STEP, slice * SLICE, size,
                     [&](int index) { return position_of(positions.queries, index); });
            }
            __syncthreads();
            block.score(scores, own, lane, slices, slice, positions.keys != nullptr, positions.queries != nullptr);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int i = place.first + own + r;
            // Otherwise what each row sees would be kept in registers from tile to tile.
            asm volatile("" : "+r"(i));
            const int j = start + lane;
            const Keys row_seen = place.seen(setting, i, i + 1);
            float score = scores[r] * scale;
            if (table != nullptr) {
                score = fmaf(table[max(-setting.reach, min(j - i, setting.reach))], LOG2_E, score);
            }
            if (j < row_seen.begin || j >= row_seen.end) {
                score = -INFINITY;
            }
            float top = fmaxf(largest[r], score);
#pragma unroll
            for (int distance = 16; distance > 0; distance /= 2) {
                top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, distance));
            }
            // A row that has seen nothing yet must not subtract infinity from infinity.
            const float base = top == -INFINITY ? 0.0f : top;
            const float keep = power_of_two(largest[r] - base);
            const float weight = power_of_two(score - base);
            largest[r] = top;
            total[r] = total[r] * keep + weight;
#pragma unroll
            for (int slice = 0; slice < SLICES; slice++) {
                sums[slice][r] *= keep;
            }
            block.weights[(own + r) * LANES + lane] = weight;
        }
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            if (slice < slices) {
                int first = slice * SLICE;
                // Otherwise the addresses of all slices would be kept in registers from tile to tile.
                asm volatile("" : "+r"(first));
                __syncthreads();
                fill(block.keys, LANES, STEP, first, size, [&](int row) { return row_of(value, row); });
                __syncthreads();
                block.add(sums[slice], own, lane);
            }
        }
    }

#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float sum = total[r];
#pragma unroll
        for (int distance = 16; distance > 0; distance /= 2) {
            sum += __shfl_xor_sync(0xffffffff, sum, distance);
        }
        // A query that sees nothing gives zeros.
        const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
        const int i = place.first + own + r;
        if (i < place.queries) {
#pragma unroll
            for (int slice = 0; slice < SLICES; slice++) {
                const int column = slice * SLICE + lane;
                if (column < size) {
                    output[(place.query_row + static_cast<size_t>(i)) * width + offset + column] =
                        narrow<T>(sums[slice][r] * inverse);
                }
            }
        }
    }
}

}  // namespace attention
