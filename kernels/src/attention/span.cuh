//! Which keys the queries of a block see: what both kernels of attention have in common.
#pragma once

#include <cstdint>

namespace attention {

constexpr float LOG2_E = 1.4426950408889634f;

/// The part of a launch that does not depend on how numbers are stored.
struct Setting {
    /// `[count, 4]`: first query, end of the queries, first key, end of the keys.
    const uint32_t* spans;
    /// Blocks per span; blocks of one span are neighbors, so that they find its keys in the cache.
    uint32_t tiles;
    uint32_t heads;
    float scale;
    bool causal;
    /// How far a query sees to either side; a number no distance reaches if there is no window.
    int window;
    /// `[heads, 2 * reach + 1]` or null.
    const float* table;
    int reach;
};

/// A run of keys, counted in the span.
struct Keys {
    int begin;
    int end;
};

/// The queries of a block, in their span.
struct Place {
    /// Rows of the span's first query and key.
    uint32_t query_row;
    uint32_t key_row;
    int queries;
    int keys;
    /// The block's first query, counted in the span.
    int first;
    int head;

    __device__ __forceinline__ Place(const Setting& setting, int queries_of_block) {
        const uint32_t* span = setting.spans + 4 * static_cast<size_t>(blockIdx.x / setting.tiles);
        query_row = span[0];
        key_row = span[2];
        queries = static_cast<int>(span[1] - query_row);
        keys = static_cast<int>(span[3] - key_row);
        first = static_cast<int>(blockIdx.x % setting.tiles) * queries_of_block;
        head = static_cast<int>(blockIdx.y);
    }

    /// The keys that any of the queries from `begin` to before `end` sees.
    __device__ __forceinline__ Keys seen(const Setting& setting, int begin, int end) const {
        const int behind = setting.causal ? end : keys;
        return {max(begin - setting.window, 0), min(min(keys, behind), end + setting.window)};
    }
};

}  // namespace attention
