// How a weight matrix lies in device memory, and the arguments of the product kernels.
//
// A matrix is cut into tiles of 16 rows; a tile into records of 256 columns. A record holds all that a warp needs to turn
// 16 x 256 weights into A fragments of mma.m16n8k16: scales, high bits, then the low bits of its four steps of 64 columns,
// in the order in which the 32 lanes take them, 16 bytes a load. Lane (g, t) = (lane / 4, lane % 4) owns rows g and g + 8 and
// the columns 16 t .. 16 t + 15 of every step, so that one scale of 16 or 32 columns serves a lane's whole step. The last
// record of a tile is cut off after its last step; rows and columns that the matrix lacks hold zeros.
//
// Eight tiles make a block of 128 rows (the last may have fewer), and lie record by record: the first record of each tile, the
// second of each, and so on; F16, which has no scales, step by step. So a warp's record and a block's records are each one
// piece, which one bulk copy brings to shared memory. The bytes are those of the file, up to 3 % more.
#pragma once
#include <cuda_fp16.h>
#include <stdint.h>

// Kinds of records. BF16 is kept as F16 (its mantissa fits; magnitudes above 65504 become infinite, below 6e-8 zero), IQ4_XS
// as IQ4_NL with its two scales multiplied. F32 is kept as it is (row-major, product_f32.cu).
enum Kind : uint32_t {
    KIND_F16 = 0,
    KIND_Q4_0 = 1,
    KIND_Q4_1 = 2,
    KIND_Q5_0 = 3,
    KIND_Q5_1 = 4,
    KIND_Q8_0 = 5,
    KIND_Q2_K = 6,
    KIND_Q3_K = 7,
    KIND_Q4_K = 8,
    KIND_Q5_K = 9,
    KIND_Q6_K = 10,
    KIND_IQ4 = 11,
    KIND_MXFP4 = 12,
    KIND_COUNT = 13,
};

constexpr int STEP_COLS = 64;
constexpr int RECORD_COLS = 256;
constexpr int TILE_ROWS = 16;
constexpr int BLOCK_TILES = 8;
constexpr int CHUNKS = 8;  // parts of the columns whose sums are formed apart, and then added in order

// Bytes of a record's planes, in the order in which they lie there.
struct Planes {
    int scales, d, high2, high1, step;  // step: low bits of one step of 64 columns
    __host__ __device__ constexpr int d_at() const { return scales; }
    __host__ __device__ constexpr int high2_at() const { return scales + d; }
    __host__ __device__ constexpr int high1_at() const { return scales + d + high2; }
    __host__ __device__ constexpr int steps_at() const { return scales + d + high2 + high1; }
    __host__ __device__ constexpr int record() const { return steps_at() + 4 * step; }
};

__host__ __device__ constexpr Planes planes(uint32_t kind) {
    switch (kind) {
        case KIND_F16: return {0, 0, 0, 0, 2048};
        case KIND_Q4_0: return {256, 0, 0, 0, 512};
        case KIND_Q4_1: return {512, 0, 0, 0, 512};
        case KIND_Q5_0: return {256, 0, 0, 512, 512};
        case KIND_Q5_1: return {512, 0, 0, 512, 512};
        case KIND_Q8_0: return {256, 0, 0, 0, 1024};
        case KIND_Q2_K: return {256, 64, 1024, 0, 0};
        case KIND_Q3_K: return {256, 32, 1024, 512, 0};
        case KIND_Q4_K: return {256, 64, 0, 0, 512};
        case KIND_Q5_K: return {256, 64, 0, 512, 512};
        case KIND_Q6_K: return {256, 32, 1024, 0, 512};
        case KIND_IQ4: return {256, 0, 0, 0, 512};
        case KIND_MXFP4: return {128, 0, 0, 0, 512};
    }
    return {0, 0, 0, 0, 0};
}

__host__ __device__ constexpr int steps_of(int cols) { return (cols + STEP_COLS - 1) / STEP_COLS; }
__host__ __device__ constexpr int records_of(int cols) { return (cols + RECORD_COLS - 1) / RECORD_COLS; }
__host__ __device__ constexpr int tiles_of(int rows) { return (rows + TILE_ROWS - 1) / TILE_ROWS; }

// Bytes of a tile of 16 rows; a matrix takes tiles_of(rows) of them.
__host__ __device__ constexpr int64_t tile_bytes(uint32_t kind, int cols) {
    const Planes p = planes(kind);
    const int records = records_of(cols);
    return (int64_t)records * p.record() - (int64_t)(4 * records - steps_of(cols)) * p.step;
}

// Activations for the decode and batch kernels, "records": f16 [records][row_stride][256], where the 16-byte piece p (of 32) of
// token m lies at p ^ (m & 1), which keeps shared memory free of bank conflicts. Columns up to a multiple of 64 hold zeros.
__host__ __device__ inline size_t x_record_at(int token, int col, int row_stride) {
    const size_t row = (size_t)(col / RECORD_COLS) * row_stride + token;
    return row * 256 + ((((col % 256) / 8) ^ (token & 1)) * 8) + col % 8;
}

// Activations for the wgmma kernel, "panels": f16 [steps][row_stride][64], each row of 128 bytes in the 128-byte swizzle, its
// columns in the order of the weights' fragments. row_stride is a multiple of 8; rows up to a multiple of 128 must be readable.
__host__ __device__ inline size_t x_panel_at(int token, int col, int row_stride) {
    const int c = col % 64, t = c / 16, s = (c % 16) / 4, h = (c % 4) / 2;
    const int chunk = (2 * s + h) ^ (token & 7);
    return ((size_t)(col / 64) * row_stride + token) * 64 + chunk * 8 + 2 * t + (c & 1);
}

// One matrix of a launch.
struct ProductMatrix {
    const uint8_t* weights;     // repacked; expert 0
    const float* bias;          // [experts, rows] or null
    void* out;                  // see ProductArgs::store
    unsigned long long expert_bytes;
    uint32_t kind;
    uint32_t rows;
    uint32_t out_stride;        // f32: elements from token to token; records and panels: their row_stride
    uint32_t first_unit;        // of this matrix among the units of the launch
    uint32_t piece_bytes;       // planes(kind).record(); F16: 2048
    uint32_t last_piece_bytes;  // tile_bytes - (pieces - 1) * piece_bytes, pieces = records_of(cols); F16: 2048
    uint32_t tile_bytes;
    uint32_t tiles;             // tiles_of(rows)
};

// Steps in a piece, and the pieces of a tile.
__host__ __device__ constexpr int piece_steps(uint32_t kind) { return kind == KIND_F16 ? 1 : 4; }
__host__ __device__ constexpr int pieces_of(uint32_t kind, int cols) { return kind == KIND_F16 ? steps_of(cols) : records_of(cols); }

// Tiles in the block of `tile`.
__host__ __device__ inline uint32_t block_tiles(uint32_t tiles, uint32_t tile) {
    const uint32_t left = tiles - tile / BLOCK_TILES * BLOCK_TILES;
    return left < BLOCK_TILES ? left : BLOCK_TILES;
}

// Where piece `piece` of a tile begins in its matrix; `bytes` is that of this piece. The same piece of the block's next tile follows.
__host__ __device__ inline size_t piece_at(uint32_t tiles, uint32_t tile, int64_t tile_bytes, uint32_t piece, uint32_t piece_bytes, uint32_t bytes) {
    return (size_t)(tile / BLOCK_TILES * BLOCK_TILES) * tile_bytes + (size_t)piece * block_tiles(tiles, tile) * piece_bytes +
           tile % BLOCK_TILES * bytes;
}

// Which rows go through which expert: rows x_row .. x_row + count of the activations to the same count of rows of the output.
struct ProductItem {
    int expert, x_row, out_row, count;
};

enum Activation : uint32_t { ACT_NONE = 0, ACT_SILU = 1, ACT_GELU = 2, ACT_CLAMPED = 3, ACT_GELU_ALONE = 4 };
enum Store : uint32_t { STORE_F32 = 0, STORE_ADD = 1, STORE_RECORDS = 2, STORE_PANELS = 3 };

// Arguments of every product kernel, by value.
struct ProductArgs {
    ProductMatrix matrix[3];
    const uint8_t* x;           // records or panels
    const ProductItem* items;   // null: one item, all tokens, expert 0
    const uint32_t* item_count; // null: as many items as the grid has; else read on the device
    uint32_t matrices;          // 1..3; with a pair (ACT_SILU .. ACT_CLAMPED) 2: gate and up, of one kind and one shape
    uint32_t units;             // in all, see each kernel; with a pair those of gate
    uint32_t cols;
    uint32_t tokens;            // rows of x; with items the most that one item has
    uint32_t x_stride;          // row_stride of x
    uint32_t act;
    uint32_t store;
    uint32_t stages;            // of the ring in shared memory
    uint32_t weight_stages;     // of the weights' own ring: product_prefill and product_many
    uint32_t slot_bytes;        // the largest piece_bytes of the launch
    float out_scale;            // what x was divided by
    float store_scale;          // records and panels are stored times this power of two
    float alpha, limit;         // ACT_CLAMPED
};
