// The feed-forward's elementwise parts: activations, the router's choice, and the sum over the chosen experts.
#include "route.cuh"

struct Activate {
    const float* gate;  // [n, width]; null: there is none
    const float* up;    // [n, width]
    float* y;           // [n, width]
    uint64_t count;
    int kind;  // 0 silu, 1 gelu, 2 clamped swiglu
    float alpha;
    float limit;
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float gelu(float x) {
    float inner = 0.7978845608028654f * fmaf(0.044715f * x * x, x, x);
    return 0.5f * x * (1.0f + tanhf(inner));
}

__device__ __forceinline__ float activation(const Activate& p, float gate, float up) {
    if (p.kind == 0) return gate * sigmoid(gate) * up;
    if (p.kind == 1) return gelu(gate) * up;
    float g = fminf(gate, p.limit), u = fminf(fmaxf(up, -p.limit), p.limit);
    return g * sigmoid(p.alpha * g) * (u + 1.0f);
}

// grid (ceil(count / 256)), block 256
extern "C" __global__ void __launch_bounds__(256) activate(const Activate p) {
    pdl_begin();
    uint64_t i = (uint64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= p.count) return;
    p.y[i] = p.gate ? activation(p, p.gate[i], p.up[i])
                    : p.kind == 0 ? p.up[i] * sigmoid(p.up[i]) : gelu(p.up[i]);
}

struct Route {
    const float* logits;  // [n, experts]
    int* chosen;          // [n, used], best first
    float* weights;       // [n, used]
    int experts;
    int used;
    int n;
};

// A warp chooses for a row.
// grid (n), block 32
extern "C" __global__ void __launch_bounds__(32) route(const Route p) {
    __shared__ uint32_t left[MAX_EXPERTS];
    pdl_begin();
    const size_t row = blockIdx.x;
    choose([&](int e) { return __ldcg(p.logits + row * p.experts + e); }, left, p.experts, p.used, p.chosen + row * p.used, p.weights + row * p.used);
}

struct Combine {
    const float* outputs;  // [n * used, width]
    const float* weights;  // [n, used]
    const int* places;     // [n, used]: the row of outputs of each choice; null: in their order
    float* y;              // [n, width]
    int used;
    int width;
    int add;
};

// grid (ceil(width / 256), n), block 256
extern "C" __global__ void __launch_bounds__(256) combine(const Combine p) {
    pdl_begin();
    int i = blockIdx.x * 256 + threadIdx.x, row = blockIdx.y;
    if (i >= p.width) return;
    float sum = 0.0f;
    for (int j = 0; j < p.used; j++) {
        size_t choice = (size_t)row * p.used + j, place = p.places ? p.places[choice] : choice;
        sum = fmaf(p.weights[choice], p.outputs[place * p.width + i], sum);
    }
    float* to = p.y + (size_t)row * p.width + i;
    *to = p.add ? *to + sum : sum;
}
