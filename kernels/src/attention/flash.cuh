//! Fused attention on tensor cores, for 16-bit numbers and head sizes 32, 64, 96 and 128.
//!
//! A block has one head of 16 queries per warp and goes over the keys in tiles; the next tile is copied while one is worked
//! on. Each warp keeps its queries, its part of the output, and per row the largest score and the sum of the weights in
//! registers, in units of log2. Weights are rounded to the 16-bit type for their product with the values; sums are f32.
//!
//! Tiles begin at multiples of their size from the span's first key, and what a row does not see adds exact zeros. So the bits
//! of a row depend on its span alone: not on other spans, nor on the number of warps.
//!
//! Rows in shared memory lie without padding; their 16-byte chunks are permuted by the row such that the 8 rows of a matrix
//! are in different banks.
#pragma once

#include "mma.cuh"
#include "span.cuh"

namespace attention {

/// One head's first number of row 0, and numbers from row to row.
template <typename T>
struct Rows {
    const T* values;
    uint32_t stride;

    __device__ __forceinline__ const T* row(uint32_t row) const { return values + static_cast<size_t>(row) * stride; }
};

/// A tile in shared memory, `[rows, SIZE]` 16-bit numbers.
template <int SIZE>
struct Tile {
    static constexpr int CHUNKS = SIZE / 8;
    uint32_t address;

    __device__ __forceinline__ uint32_t chunk(int row, int column) const {
        const int swapped = CHUNKS % 8 == 0 ? column ^ (row & 7) : column ^ ((row >> 1) & 3);
        return address + 16 * (row * CHUNKS + swapped);
    }

    /// Begins to copy `ROWS` rows with all threads of the block; rows from `real` on become zeros, those from `needed` on stay.
    template <typename T, int ROWS, int THREADS>
    __device__ __forceinline__ void fill(const T* from, uint32_t stride, int real, int needed) const {
        constexpr int PASSES = ROWS * CHUNKS / THREADS;
        constexpr int TOGETHER = PASSES % Copy::TOGETHER == 0 ? Copy::TOGETHER : 1;
        static_assert(ROWS * CHUNKS % THREADS == 0, "every thread has the same number of chunks");
        // Unrolled, the addresses of all passes would stay in registers that scores need.
#pragma unroll 1
        for (int pass = 0; pass < PASSES; pass += TOGETHER) {
            Copy copies[TOGETHER];
#pragma unroll
            for (int i = 0; i < TOGETHER; i++) {
                const int index = (pass + i) * THREADS + static_cast<int>(threadIdx.x);
                const int row = index / CHUNKS;
                const int column = index % CHUNKS;
                if (row < needed) {
                    const size_t source = row < real ? row : 0;
                    copies[i].begin(chunk(row, column), from + source * stride + column * 8, row < real);
                }
            }
#pragma unroll
            for (int i = 0; i < TOGETHER; i++) {
                const int index = (pass + i) * THREADS + static_cast<int>(threadIdx.x);
                if (index / CHUNKS < needed) {
                    copies[i].finish(chunk(index / CHUNKS, index % CHUNKS));
                }
            }
        }
    }
};

/// What a warp knows of its 16 queries. A lane has two rows, `group` and `group + 8`.
template <typename T, int SIZE, int KEYS>
struct Warp {
    uint32_t query[SIZE / 16][4];
    float output[SIZE / 8][4];
    float largest[2];
    float total[2];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int part = 0; part < SIZE / 8; part++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                output[part][i] = 0.0f;
            }
        }
        largest[0] = largest[1] = -INFINITY;
        total[0] = total[1] = 0.0f;
    }

    __device__ __forceinline__ void load(Tile<SIZE> queries, int lane, int first) {
#pragma unroll
        for (int depth = 0; depth < SIZE / 16; depth++) {
            load_matrices(query[depth], queries.chunk(first + lane % 16, 2 * depth + lane / 16));
        }
    }

    /// Products of the queries with the first `count` keys of a tile, 16 keys at a time.
    __device__ __forceinline__ void score(float (&scores)[KEYS / 8][4], Tile<SIZE> keys, int lane, int count) const {
#pragma unroll
        for (int group = 0; group < KEYS / 16; group++) {
            if (group * 16 < count) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    scores[2 * group][i] = scores[2 * group + 1][i] = 0.0f;
                }
#pragma unroll
                for (int depth = 0; depth < SIZE / 16; depth++) {
                    uint32_t right[4];
                    const int row = group * 16 + (lane / 16) * 8 + lane % 8;
                    load_matrices(right, keys.chunk(row, 2 * depth + (lane / 8) % 2));
                    multiply<T>(scores[2 * group], query[depth], right[0], right[1]);
                    multiply<T>(scores[2 * group + 1], query[depth], right[2], right[3]);
                }
            }
        }
    }

    /// Turns scores into weights; `factor` brings scores to units of log2.
    __device__ __forceinline__ void weigh(float (&scores)[KEYS / 8][4], float factor, int count) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = largest[half];
#pragma unroll
            for (int part = 0; part < KEYS / 8; part++) {
                if (part / 2 * 16 < count) {
                    top = fmaxf(top, fmaxf(scores[part][2 * half], scores[part][2 * half + 1]));
                }
            }
            top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
            // A row that has seen nothing yet must not subtract infinity from infinity.
            const float base = top == -INFINITY ? 0.0f : top * factor;
            const float keep = power_of_two(fmaf(largest[half], factor, -base));
            float sum = 0.0f;
#pragma unroll
            for (int part = 0; part < KEYS / 8; part++) {
                if (part / 2 * 16 < count) {
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; i++) {
                        scores[part][i] = power_of_two(fmaf(scores[part][i], factor, -base));
                        sum += scores[part][i];
                    }
                }
            }
            largest[half] = top;
            total[half] = total[half] * keep + sum;
            // Behind the first tiles the largest score seldom changes, and a factor of 1 changes no bits.
            if (__any_sync(0xffffffff, keep != 1.0f)) {
#pragma unroll
                for (int part = 0; part < SIZE / 8; part++) {
                    output[part][2 * half] *= keep;
                    output[part][2 * half + 1] *= keep;
                }
            }
        }
    }

    /// Adds weights times values.
    __device__ __forceinline__ void add(const float (&weights)[KEYS / 8][4], Tile<SIZE> values, int lane, int count) {
#pragma unroll
        for (int group = 0; group < KEYS / 16; group++) {
            if (group * 16 < count) {
                const float(&before)[4] = weights[2 * group];
                const float(&behind)[4] = weights[2 * group + 1];
                const uint32_t left[4] = {pack<T>(before[0], before[1]), pack<T>(before[2], before[3]),
                                          pack<T>(behind[0], behind[1]), pack<T>(behind[2], behind[3])};
#pragma unroll
                for (int part = 0; part < SIZE / 16; part++) {
                    uint32_t right[4];
                    load_transposed(right, values.chunk(group * 16 + lane % 16, 2 * part + lane / 16));
                    multiply<T>(output[2 * part], left, right[0], right[1]);
                    multiply<T>(output[2 * part + 1], left, right[2], right[3]);
                }
            }
        }
    }

    /// Divides by the sum of the weights, and lays the output where other lanes find it in whole chunks.
    __device__ __forceinline__ void finish(Tile<SIZE> to, int lane, int first) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = total[half];
            sum += __shfl_xor_sync(0xffffffff, sum, 1);
            sum += __shfl_xor_sync(0xffffffff, sum, 2);
            // A query that sees nothing gives zeros.
            const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
            const int row = first + lane / 4 + 8 * half;
#pragma unroll
            for (int part = 0; part < SIZE / 8; part++) {
                const uint32_t packed = pack<T>(output[part][2 * half] * inverse, output[part][2 * half + 1] * inverse);
                store_word(to.chunk(row, part) + 4 * (lane % 4), packed);
            }
        }
        __syncwarp();
    }
};

/// Takes keys out of the scores that a row does not see. `first` is the lane's first query, `start` the tile's first key.
template <int KEYS>
__device__ __forceinline__ void mask(
    float (&scores)[KEYS / 8][4], const Setting& setting, const Place& place, int first, int start, int lane, int count) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int query = first + 8 * half;
        const Keys seen = place.seen(setting, query, query + 1);
#pragma unroll
        for (int part = 0; part < KEYS / 8; part++) {
            if (part / 2 * 16 < count) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int key = start + part * 8 + lane % 4 * 2 + i;
                    if (key < seen.begin || key >= seen.end) {
                        scores[part][2 * half + i] = -INFINITY;
                    }
                }
            }
        }
    }
}

/// Attention of a block: `WARPS * 16` queries of a span, one head.
template <typename T, int SIZE, int WARPS>
__device__ __forceinline__ void flash(Rows<T> query, Rows<T> key, Rows<T> value, const Setting& setting, T* output) {
    constexpr int KEYS = SIZE <= 64 ? 64 : 32;
    constexpr int QUERIES = WARPS * 16;
    constexpr int THREADS = WARPS * 32;
    constexpr int TILE_CHUNKS = KEYS * SIZE / 8;
    static_assert(QUERIES <= 2 * KEYS, "queries fit where a tile of keys and one of values goes");
    // Keys and values, twice. The second pair first holds the queries, and the first at last the output.
    __shared__ uint4 memory[4 * TILE_CHUNKS];
    // What distances between the block's queries and the tile's keys add to scores, twice; absent if they add nothing.
    extern __shared__ float distance_lines[];
    auto line_of = [&](int step) { return distance_lines + step % 2 * (QUERIES + KEYS); };

    const Place place(setting, QUERIES);
    if (place.first >= place.queries) {
        return;
    }
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int offset = place.head * SIZE;
    const int last = min(place.first + QUERIES, place.queries);
    const Keys seen = place.seen(setting, place.first, last);
    const int begin = seen.begin / KEYS * KEYS;
    const int tiles = seen.end > seen.begin ? (seen.end - begin + KEYS - 1) / KEYS : 0;
    // The warp's queries. Without any it only helps to copy.
    const int own = place.first + warp * 16;
    const Keys own_seen = place.seen(setting, own, min(own + 16, place.queries));
    const uint32_t base = shared_address(memory);

    auto tile = [&](int index) { return Tile<SIZE>{base + 16 * TILE_CHUNKS * index}; };
    auto fetch = [&](int step) {
        const int start = begin + step * KEYS;
        const int real = min(KEYS, place.keys - start);
        const int needed = (min(KEYS, seen.end - start) + 15) / 16 * 16;
        const uint32_t row = place.key_row + start;
        tile(step % 2 * 2).template fill<T, KEYS, THREADS>(key.row(row) + offset, key.stride, real, needed);
        tile(step % 2 * 2 + 1).template fill<T, KEYS, THREADS>(value.row(row) + offset, value.stride, real, needed);
        if (setting.table != nullptr) {
            const float* table = setting.table + static_cast<size_t>(place.head) * (2 * setting.reach + 1) + setting.reach;
            for (int index = static_cast<int>(threadIdx.x); index < QUERIES + KEYS - 1; index += THREADS) {
                const int distance = start - place.first + index - (QUERIES - 1);
                line_of(step)[index] = table[max(-setting.reach, min(distance, setting.reach))] * LOG2_E;
            }
        }
    };

    tile(2).template fill<T, QUERIES, THREADS>(
        query.row(place.query_row + place.first) + offset, query.stride, last - place.first, QUERIES);
    if (tiles > 0) {
        fetch(0);
    }
    wait_for_copies();
    __syncthreads();
    Warp<T, SIZE, KEYS> state;
    state.clear();
    state.load(tile(2), lane, warp * 16);
    __syncthreads();

    const float scale = setting.scale * LOG2_E;
    for (int step = 0; step < tiles; step++) {
        if (step + 1 < tiles) {
            fetch(step + 1);
        }
        const int start = begin + step * KEYS;
        const int count = min(KEYS, own_seen.end - start);
        if (own < place.queries && count > 0 && own_seen.begin < start + KEYS) {
            float scores[KEYS / 8][4];
            state.score(scores, tile(step % 2 * 2), lane, count);
            const int first = own + lane / 4;
            float factor = scale;
            if (setting.table != nullptr) {
                factor = 1.0f;
                const float* line = line_of(step) + QUERIES - 1 + lane % 4 * 2 - (first - place.first);
#pragma unroll
                for (int part = 0; part < KEYS / 8; part++) {
                    if (part / 2 * 16 < count) {
#pragma unroll
                        for (int i = 0; i < 4; i++) {
                            scores[part][i] = fmaf(scores[part][i], scale, line[part * 8 + i % 2 - i / 2 * 8]);
                        }
                    }
                }
            }
            // Only tiles at an edge of what the warp's queries see have keys to take out.
            const Keys all_from = place.seen(setting, own + 15, own + 16);
            const Keys all_to = place.seen(setting, own, own + 1);
            if (start < all_from.begin || start + KEYS > all_to.end) {
                mask<KEYS>(scores, setting, place, first, start, lane, count);
            }
            state.weigh(scores, factor, count);
            state.add(scores, tile(step % 2 * 2 + 1), lane, count);
        }
        wait_for_copies();
        __syncthreads();
    }

    if (own >= place.queries) {
        return;
    }
    state.finish(tile(0), lane, warp * 16);
    const size_t width = static_cast<size_t>(setting.heads) * SIZE;
#pragma unroll
    for (int index = lane; index < 16 * Tile<SIZE>::CHUNKS; index += 32) {
        const int row = index / Tile<SIZE>::CHUNKS;
        const int column = index % Tile<SIZE>::CHUNKS;
        if (own + row < place.queries) {
            const uint4 data = memory[(tile(0).chunk(warp * 16 + row, column) - base) / 16];
            *reinterpret_cast<uint4*>(output + (place.query_row + own + row) * width + offset + column * 8) = data;
        }
    }
}

}  // namespace attention
