// How the checks launch product_rows.cu and product_panels.cu.
#pragma once
#include "bench.hpp"

extern "C" __global__ void product_rows(const __grid_constant__ RowsArgs args);
extern "C" __global__ void product_rows_pair(const __grid_constant__ RowsArgs args);
extern "C" __global__ void product_panels_16(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_panels_16_pair(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_panels_32(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_panels_32_pair(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_panels_64(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_panels_64_pair(const __grid_constant__ ProductArgs args);

constexpr int ROWS_HELPERS = 5;  // warps of a block beside those that multiply

// product_rows.cu: up to `blocks` blocks of `bytes` of shared memory at the most, of up to so many teams; x is kept whole where it has to be, or
// serves many units and takes no more than `resident` bytes. False where there is no room.
inline bool run_rows(RowsArgs r, int bytes, int resident, int teams, bool dependent, cudaStream_t stream, int blocks = multiprocessors()) {
    ProductArgs& a = r.product;
    const bool pair = a.act >= ACT_SILU && a.act <= ACT_CLAMPED;
    uint32_t units = 0;
    bool f16 = false;
    a.slot_bytes = 0;
    for (uint32_t i = 0; i < a.matrices; ++i) {
        a.matrix[i].first_unit = pair ? 0 : units;
        if (!pair || i == 0) units += a.matrix[i].tiles;
        a.slot_bytes = std::max(a.slot_bytes, a.matrix[i].piece_bytes), f16 |= a.matrix[i].kind == KIND_F16;
    }
    const int records = records_of(a.cols), parts = std::min(8, records), x = records * 512 * a.tokens, grid = std::min<int>(units, blocks);
    teams = std::min(teams, 16 / parts);
    teams = std::min<int>(teams, (units + grid - 1) / grid);
    r.resident = pair || f16 || ((int)units > 2 * grid && x <= resident);
    if (!r.resident) a.slot_bytes += 512 * a.tokens;
    const int beside = r.resident ? x : 0;
    if (f16) teams = 1;
    for (;; --teams) {
        // No more than a block has to do, and fewer teams rather than rings of one stage.
        const int most = (units + grid * teams - 1) / (grid * teams) * (pair ? 2 : 1) * (f16 ? 4 : 1) * ((records + parts - 1) / parts);
        a.units = units, a.stages = std::min(std::min(16, most), (bytes - beside) / (parts * teams * (int)a.slot_bytes));
        if (teams == 1 || (int)a.stages >= std::min(2, most)) break;
    }
    const int stage = parts * teams * a.slot_bytes;
    if ((int)a.stages < 1) return false;
    launch(pair ? product_rows_pair : product_rows, dim3(grid), 32 * (parts * teams + ROWS_HELPERS), beside + a.stages * stage, r, dependent, stream);
    return true;
}

// product_panels.cu: up to `blocks` blocks of `bytes` of shared memory at the most, of up to so many teams. False where there is no room.
inline bool run_panels(ProductArgs a, int bytes, int teams, int stages, bool dependent, cudaStream_t stream, int blocks = multiprocessors()) {
    static void (*const kernels[3][2])(ProductArgs) = {{product_panels_16, product_panels_16_pair}, {product_panels_32, product_panels_32_pair}, {product_panels_64, product_panels_64_pair}};
    const bool pair = a.act >= ACT_SILU && a.act <= ACT_CLAMPED;
    const int n = a.tokens <= 16 ? 16 : a.tokens <= 32 ? 32 : 64, records = records_of(a.cols), parts = std::min(8, records);
    uint32_t units = 0;
    bool f16 = false;
    a.slot_bytes = 0;
    for (uint32_t i = 0; i < a.matrices; ++i) {
        a.matrix[i].first_unit = pair ? 0 : units;
        if (!pair || i == 0) units += a.matrix[i].tiles;
        a.slot_bytes = std::max(a.slot_bytes, a.matrix[i].piece_bytes), f16 |= a.matrix[i].kind == KIND_F16;
    }
    const int x = steps_of(a.cols) * a.x_stride * 128, grid = std::min<int>(units, blocks), sums = n * 64 * (pair ? 2 : 1);
    teams = std::min<int>(std::min(teams, (n == 64 ? 8 : 16) / parts), (units + grid - 1) / grid);
    for (;; --teams) {
        if (teams == 0) return false;
        const int most = (units + grid * teams - 1) / (grid * teams) * (pair ? 2 : 1) * (f16 ? 4 : 1) * ((records + parts - 1) / parts);
        a.units = units, a.stages = std::max(0, std::min(std::min(16, most), ((bytes - x) / (parts * teams) - sums) / (int)a.slot_bytes));
        if ((int)a.stages >= std::min(stages, most)) break;
    }
    launch(kernels[n / 32][pair], dim3(grid), 32 * (parts * teams + ROWS_HELPERS), x + parts * teams * (a.stages * a.slot_bytes + sums), a, dependent, stream);
    return true;
}
