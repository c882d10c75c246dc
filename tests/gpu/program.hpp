// A step as a program of step_row.cu: takes the arguments of its kernels in their order, and gives every row that one of them makes
// a place of its own.
#pragma once
#include <map>

#include "../../kernels/step_row.cuh"
#include "bench.hpp"

extern "C" __global__ void step_row(const __grid_constant__ StepArgs args);

class Program {
  public:
    int ring_limit = 16384, probe_ns = 0;

    Program() : rows_(2 * HALF), turn_(multiprocessors()) {
        rows_.fill(0xff);
        turn_.fill(0);
    }

    // `keep`: what it makes is for those who read it after the launch.
    void add(RowArgs r, bool keep) {
        ProductArgs& a = r.product;
        const bool pair = a.act >= ACT_SILU && a.act <= ACT_CLAMPED, records = a.store == STORE_RECORDS;
        number_units(a);
        if (places_.count(a.x)) a.x_stride = 1;
        a.x = place_of(a.x), r.hidden = place_of(r.hidden);
        StepOp op = {};
        op.kind = pair ? STEP_PAIR : STEP_PRODUCT;
        if (a.store == STORE_ADD) op.residual = place_of((const float*)a.matrix[0].out), last_sum_ = ops_.size(), sum_ = (float*)a.matrix[0].out;
        for (uint32_t i = 0; i < a.matrices && !keep; ++i) {
            ProductMatrix& m = a.matrix[i];
            m.out = i > 0 && pair ? a.matrix[0].out : fresh(m.out, records ? (m.rows + 63) / 64 * 128 : m.rows * 4);
            if (records) m.out_stride = 1;
        }
        x_bytes_ = std::max(x_bytes_, steps_of(a.cols) * 128);
        op.row = r;
        ops_.push_back(op);
    }

    void add(Attend p, int groups, int chunks) {
        p.q = place_of(p.q), p.k = place_of(p.k), p.v = place_of(p.v);
        p.mixed.packed = (__half*)fresh(p.mixed.packed, (p.q_heads * p.kv.dim + 63) / 64 * 128), p.mixed.stride = 1;
        StepOp op = {};
        op.kind = p.kv.dim <= 64 ? STEP_ATTEND_64 : STEP_ATTEND_128, op.groups = groups;
        op.attend = p;
        x_bytes_ = std::max(x_bytes_, chunks + (int)(p.kv.dim <= 64 ? sizeof(AttendShared<64, STEP_ATTEND_64_WARPS>) : sizeof(AttendShared<128, STEP_ATTEND_128_WARPS>)));
        ops_.push_back(op);
    }

    void finish() {
        if (sum_) ops_[last_sum_].also = sum_;
        device_.reset(new Buffer<StepOp>(ops_));
    }

    void launch(cudaStream_t stream) const {
        cudaFuncAttributes f;
        CHECK(cudaFuncGetAttributes(&f, step_row));
        const int x = (x_bytes_ + 127) / 128 * 128, ring = std::min(ring_limit, (227 * 1024 - (int)f.sharedSizeBytes - x) / MULTIPLIERS / 128 * 128), shared = x + MULTIPLIERS * ring;
        const StepArgs args = {device_->data, rows_.data, turn_.data, HALF, (uint32_t)ops_.size(), (uint32_t)x, (uint32_t)ring, (uint32_t)probe_ns};
        CHECK(cudaFuncSetAttribute(step_row, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
        cudaLaunchAttribute together = {};
        together.id = cudaLaunchAttributeCooperative, together.val.cooperative = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(multiprocessors()), config.blockDim = dim3(32 * STEP_WARPS), config.dynamicSmemBytes = shared, config.stream = stream;
        config.attrs = &together, config.numAttrs = 1;
        CHECK(cudaLaunchKernelEx(&config, step_row, args));
    }

  private:
    static constexpr size_t HALF = 8 << 20;
    Buffer<uint8_t> rows_;
    Buffer<uint32_t> turn_;
    std::vector<StepOp> ops_;
    std::unique_ptr<Buffer<StepOp>> device_;
    std::map<const void*, void*> places_;
    size_t used_ = 0, last_sum_ = 0;
    float* sum_ = nullptr;
    int x_bytes_ = 0;

    template <class T>
    T* place_of(T* p) const {
        const auto found = places_.find(p);
        return found == places_.end() ? p : (T*)found->second;
    }

    void* fresh(const void* name, size_t bytes) {
        void* place = rows_.data + used_;
        used_ += (bytes + 127) / 128 * 128;
        if (used_ > HALF) std::abort();
        return places_[name] = place;
    }
};
