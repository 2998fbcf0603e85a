// The operations between the matrix products, for a CPU. One file, no headers of torch: it compiles in about two seconds.
//
// Their twins in torch_kernels.py say what each computes. What is won here: one pass over the data instead of one for each
// small operator, and decode attention that reads the pages where they lie instead of copying them together first.
//
// T is how numbers are stored, float or bf16; arithmetic is in float. "restrict" and the plain loops let the compiler
// use the widest vectors that the machine has.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

struct bf16 {  // the upper half of a float
    uint16_t bits;
    bf16() = default;
    bf16(float value) {
        uint32_t u;
        std::memcpy(&u, &value, 4);
        bits = static_cast<uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16);  // round to nearest, ties to even
    }
    operator float() const {
        uint32_t u = static_cast<uint32_t>(bits) << 16;
        float value;
        std::memcpy(&value, &u, 4);
        return value;
    }
};

// e^x within 2 units in the last place, for x <= 0 and down to -87; below that, 0. Unlike expf, it vectorises.
static inline float exp_negative(float x) {
    float n = std::nearbyint(x * 1.44269504f);
    float r = std::fma(n, -0.693359375f, x);
    r = std::fma(n, 2.12194440e-4f, r);  // x - n ln 2, in two steps so that nothing is lost
    float p = 1.9875691500e-4f;
    p = std::fma(p, r, 1.3981999507e-3f);
    p = std::fma(p, r, 8.3334519073e-3f);
    p = std::fma(p, r, 4.1665795894e-2f);
    p = std::fma(p, r, 1.6666665459e-1f);
    p = std::fma(p, r, 5.0000001201e-1f);
    p = std::fma(p, r * r, r + 1.0f);
    int32_t power = (static_cast<int32_t>(n) + 127) << 23;  // 2^n, written into a float's exponent
    float two_n;
    std::memcpy(&two_n, &power, 4);
    return x < -87.0f ? 0.0f : p * two_n;
}

template <typename T>
static void rms_norm(T* __restrict x, const T* __restrict add, const T* __restrict weight, T* __restrict out, int64_t rows,
                     int64_t size, float eps, float offset) {
    for (int64_t t = 0; t < rows; t++, x += size, out += size) {
        float sum = 0;
        if (add) {
            for (int64_t i = 0; i < size; i++) x[i] = T(float(x[i]) + float(add[i]));
            add += size;
        }
        for (int64_t i = 0; i < size; i++) sum += float(x[i]) * float(x[i]);
        float scale = 1.0f / std::sqrt(sum / size + eps);
        for (int64_t i = 0; i < size; i++) out[i] = T(float(T(float(x[i]) * scale)) * (float(weight[i]) + offset));
    }
}

// qkv [rows, (H + 2 Hkv) D]: each query and key head normalised by itself, in place.
template <typename T>
static void norm_heads(T* __restrict qkv, const T* __restrict q_weight, const T* __restrict k_weight, int64_t rows, int64_t H,
                       int64_t Hkv, int64_t D, float eps, float offset) {
    int64_t width = (H + 2 * Hkv) * D;
#pragma omp parallel for if (rows * width > 65536)
    for (int64_t t = 0; t < rows; t++) {
        for (int64_t h = 0; h < H + Hkv; h++) {
            T* x = qkv + t * width + h * D;
            const T* weight = h < H ? q_weight : k_weight;
            float sum = 0;
            for (int64_t i = 0; i < D; i++) sum += float(x[i]) * float(x[i]);
            float scale = 1.0f / std::sqrt(sum / D + eps);
            for (int64_t i = 0; i < D; i++) x[i] = T(float(T(float(x[i]) * scale)) * (float(weight[i]) + offset));
        }
    }
}

template <typename T>
static void silu_and_multiply(const T* __restrict gate_up, T* __restrict out, int64_t rows, int64_t size) {
#pragma omp parallel for if (rows * size > 65536)
    for (int64_t t = 0; t < rows; t++) {
        const T* gate = gate_up + t * 2 * size;
        const T* up = gate + size;
        for (int64_t i = 0; i < size; i++) {
            float g = gate[i], e = exp_negative(-std::fabs(g));
            float sigmoid = (g >= 0 ? 1.0f : e) / (1.0f + e);
            out[t * size + i] = T(float(T(g * sigmoid)) * float(up[i]));
        }
    }
}

// qkv [rows, (H + 2 Hkv) D]: the first "turned" numbers of each query and key head turned in place, then keys and values
// copied to their slots.
template <typename T>
static void rotate_and_store(T* __restrict qkv, const T* __restrict cos, const T* __restrict sin, T* __restrict cache,
                             const int64_t* __restrict slots, int64_t rows, int64_t H, int64_t Hkv, int64_t D,
                             int64_t turned) {
    int64_t width = (H + 2 * Hkv) * D, half = turned / 2;
#pragma omp parallel for if (rows * width > 65536)
    for (int64_t t = 0; t < rows; t++) {
        const T *c = cos + t * turned, *s = sin + t * turned;
        for (int64_t h = 0; h < H + Hkv; h++) {
            T *a = qkv + t * width + h * D, *b = a + half;
            for (int64_t i = 0; i < half; i++) {
                float x = a[i], y = b[i];
                a[i] = T(x * float(c[i]) + y * float(s[i]));  // s is negative in its first half
                b[i] = T(y * float(c[half + i]) + x * float(s[half + i]));
            }
        }
        if (slots[t] < 0) continue;  // a row that is nobody's: it is stored nowhere
        std::memcpy(cache + slots[t] * 2 * Hkv * D, qkv + t * width + H * D, 2 * Hkv * D * sizeof(T));
    }
}

// One query a request, BLOCK tokens at a time with an online softmax (Milakov and Gimelshein 2018): the highest score so far,
// the sum of exponentials and the weighted sum of values are kept, and corrected when a higher score comes. One pass over
// the keys and values of the key/value heads [first, last), as they lie in memory: page by page, token by token, from
// token "begin" on (with a sliding window, what lies before it is not read).
constexpr int64_t BLOCK = 16;

// Ask memory for what will be read soon, into the second-level cache: the first is too small for a block of all heads.
template <typename T>
static inline void prefetch(const T* data, int64_t count) {
    for (int64_t i = 0; i < count; i += 64 / sizeof(T)) __builtin_prefetch(data + i, 0, 2);
}

template <typename T, int64_t D>
static void decode_request(const T* __restrict q, const T* __restrict cache, const int64_t* __restrict pages, int64_t begin,
                           int64_t length, T* __restrict out, int64_t first, int64_t last, int64_t G, int64_t Hkv, int64_t S, float scale,
                           int64_t d) {
    const int64_t size = D ? D : d;  // known to the compiler for the usual sizes
    const int64_t heads = (last - first) * G, row = 2 * Hkv * size;
    static thread_local std::vector<float> scratch;
    scratch.resize(heads * (2 * size + 2));
    float *query = scratch.data(), *sums = query + heads * size, *top = sums + heads * size, *total = top + heads;
    q += first * G * size, out += first * G * size;
    for (int64_t i = 0; i < heads * size; i++) query[i] = float(q[i]) * scale, sums[i] = 0;
    for (int64_t h = 0; h < heads; h++) top[h] = -INFINITY, total[h] = 0;

    for (int64_t start = begin, count; start < length; start += count) {
        int64_t offset = start % S, rest = S - offset < length - start ? S - offset : length - start;
        count = rest < BLOCK ? rest : BLOCK;  // never over the end of a page
        const T* k = cache + (pages[start / S] * S + offset) * row + first * size;
        const int64_t next = start + count;  // where the block after this begins
        const T* next_k = next < length ? cache + (pages[next / S] * S + next % S) * row + first * size : nullptr;
        for (int64_t kv = 0; kv < last - first; kv++, k += size) {
            const T* v = k + Hkv * size;
            for (int64_t h = kv * G; h < (kv + 1) * G; h++) {  // the query heads that share this key/value head
                const float* qh = query + h * size;
                float p[BLOCK], highest = top[h], added = 0;
                for (int64_t t = 0; t < count; t++) {
                    if (next_k && h == kv * G) {  // once for all of them: ask for the next block's keys and values
                        prefetch(next_k + t * row + kv * size, size);
                        prefetch(next_k + t * row + (Hkv + kv) * size, size);
                    }
                    float dot = 0;
                    for (int64_t i = 0; i < size; i++) dot += qh[i] * float(k[t * row + i]);
                    p[t] = dot;
                    highest = dot > highest ? dot : highest;
                }
                for (int64_t t = count; t < BLOCK; t++) p[t] = -INFINITY;
                for (int64_t t = 0; t < BLOCK; t++) p[t] = exp_negative(p[t] - highest), added += p[t];
                float correct = exp_negative(top[h] - highest);  // 1 if no higher score came
                top[h] = highest, total[h] = total[h] * correct + added;
                float* sum = sums + h * size;
                if constexpr (D) {  // in registers until the block is done
                    float kept[D];
                    for (int64_t i = 0; i < D; i++) kept[i] = sum[i] * correct;
                    for (int64_t t = 0; t < count; t++)
                        for (int64_t i = 0; i < D; i++) kept[i] += p[t] * float(v[t * row + i]);
                    for (int64_t i = 0; i < D; i++) sum[i] = kept[i];
                } else {
                    for (int64_t i = 0; i < size; i++) sum[i] *= correct;
                    for (int64_t t = 0; t < count; t++)
                        for (int64_t i = 0; i < size; i++) sum[i] += p[t] * float(v[t * row + i]);
                }
            }
        }
    }
    for (int64_t h = 0; h < heads; h++) {
        const float all = length ? total[h] : 1;  // nobody's row looks at nothing, and gets zeros
        for (int64_t i = 0; i < size; i++) out[h * size + i] = T(sums[h * size + i] / all);
    }
}

template <typename T>
static void paged_decode(const T* q, int64_t q_stride, const T* cache, const int64_t* page_table, int64_t table_stride,
                         const int64_t* lengths, T* out, int64_t R, int64_t H, int64_t Hkv, int64_t D, int64_t S, float scale,
                         int64_t window) {
    int64_t G = H / Hkv, parts = R < 4 ? Hkv : 1;  // few requests: cut them by heads, so that every thread has work
    auto request = D == 64 ? decode_request<T, 64> : D == 128 ? decode_request<T, 128> : decode_request<T, 0>;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < R * parts; i++) {
        int64_t r = i / parts, part = i % parts;
        int64_t begin = window && window < lengths[r] ? lengths[r] - window : 0;  // window 0: there is none
        request(q + r * q_stride, cache, page_table + r * table_stride, begin, lengths[r], out + r * H * D, part * Hkv / parts,
                (part + 1) * Hkv / parts, G, Hkv, S, scale, D);
    }
}

// Matrix product y [rows, N] = x [rows, K] W^T + bias, with W interleaved: PAIR outputs side by side, so that memory is read
// from front to back, one number of x meets many weights, and nothing has to be summed across a vector. Numbers of x are
// taken 4 bytes at a time: one float, or two bf16 that one instruction multiplies with two bf16 of every output.
#ifdef __AVX512F__
constexpr int64_t LANES = 16;
#else
constexpr int64_t LANES = 8;
#endif
constexpr int64_t PAIR = 2 * LANES;
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4)));

static inline vec multiply_add(vec sum, float x, const float* w) { return sum + x * *(const vec*)w; }
#ifdef __AVX512BF16__
static inline vec multiply_add(vec sum, int32_t x, const float* w) {  // x and w: two bf16 in 4 bytes
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(x), (__m512bh)_mm512_loadu_si512(w));
}
extern "C" int64_t multiplies_bf16() { return 1; }
#else
extern "C" int64_t multiplies_bf16() { return 0; }
#endif

static inline void fetch_ahead(const float* w) {  // processors look ahead by themselves, but not over the end of a 4 KB page
    __builtin_prefetch(w + 32 * PAIR), __builtin_prefetch(w + 32 * PAIR + LANES);
}

// out [ROWS, PAIR] for ROWS rows of x; the sums stay in registers until the end. K counts 4-byte groups.
template <int ROWS, typename Group>
struct Multiply {
    static inline void run(const Group* __restrict x, const float* __restrict w, float* __restrict out, int64_t K) {
        vec sum[ROWS][2] = {};
        for (int64_t k = 0; k < K; k++, w += PAIR) {
            fetch_ahead(w);
            for (int r = 0; r < ROWS; r++)
                sum[r][0] = multiply_add(sum[r][0], x[r * K + k], w), sum[r][1] = multiply_add(sum[r][1], x[r * K + k], w + LANES);
        }
        std::memcpy(out, sum, sizeof(sum));
    }
};

// One row: four sums taken in turn, because an addition must wait for the one before it on the same sum.
template <typename Group>
struct Multiply<1, Group> {
    static inline void run(const Group* __restrict x, const float* __restrict w, float* __restrict out, int64_t K) {
        vec sum[4][2] = {};
        int64_t k = 0;
        for (; k + 4 <= K; k += 4)
            for (int i = 0; i < 4; i++, w += PAIR) {
                fetch_ahead(w);
                sum[i][0] = multiply_add(sum[i][0], x[k + i], w), sum[i][1] = multiply_add(sum[i][1], x[k + i], w + LANES);
            }
        for (; k < K; k++, w += PAIR)
            sum[0][0] = multiply_add(sum[0][0], x[k], w), sum[0][1] = multiply_add(sum[0][1], x[k], w + LANES);
        vec total[2] = {(sum[0][0] + sum[1][0]) + (sum[2][0] + sum[3][0]), (sum[0][1] + sum[1][1]) + (sum[2][1] + sum[3][1])};
        std::memcpy(out, total, sizeof(total));
    }
};

extern "C" int64_t interleaved_outputs() { return PAIR; }

template <typename T, typename Group>
static void linear(const T* __restrict at_x, const float* __restrict weight, const T* __restrict bias, T* __restrict y,
                   int64_t rows, int64_t N, int64_t K) {
    const Group* x = (const Group*)at_x;
    K = K * sizeof(T) / 4;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n += PAIR) {
        const float* w = weight + n * K;
        int64_t outputs = N - n < PAIR ? N - n : PAIR;  // the last group may hold fewer; its weights are padded with zeros
        float block[8 * PAIR];
        for (int64_t t = 0, count; t < rows; t += count) {
            count = rows - t >= 8 ? 8 : rows - t >= 4 ? 4 : 1;
            if (count == 8) Multiply<8, Group>::run(x + t * K, w, block, K);
            else if (count == 4) Multiply<4, Group>::run(x + t * K, w, block, K);
            else Multiply<1, Group>::run(x + t * K, w, block, K);
            for (int64_t r = 0; r < count; r++)
                for (int64_t i = 0; i < outputs; i++)
                    y[(t + r) * N + n + i] = T(block[r * PAIR + i] + (bias ? float(bias[n + i]) : 0.0f));
        }
    }
}

extern "C" void linear_float32(const float* x, const float* w, const float* bias, float* y, int64_t rows, int64_t N, int64_t K) {
    linear<float, float>(x, w, bias, y, rows, N, K);
}
#ifdef __AVX512BF16__
extern "C" void linear_bfloat16(const bf16* x, const float* w, const bf16* bias, bf16* y, int64_t rows, int64_t N, int64_t K) {
    linear<bf16, int32_t>(x, w, bias, y, rows, N, K);
}
#endif

#define EXPORT(T, NAME)                                                                                                      \
    extern "C" void rms_norm_##NAME(T* x, const T* add, const T* w, T* out, int64_t rows, int64_t size, float eps,           \
                                    float offset) {                                                                          \
        rms_norm(x, add, w, out, rows, size, eps, offset);                                                                   \
    }                                                                                                                        \
    extern "C" void norm_heads_##NAME(T* qkv, const T* q_weight, const T* k_weight, int64_t rows, int64_t H, int64_t Hkv,    \
                                      int64_t D, float eps, float offset) {                                                  \
        norm_heads(qkv, q_weight, k_weight, rows, H, Hkv, D, eps, offset);                                                   \
    }                                                                                                                        \
    extern "C" void silu_and_multiply_##NAME(const T* gate_up, T* out, int64_t rows, int64_t size) {                         \
        silu_and_multiply(gate_up, out, rows, size);                                                                         \
    }                                                                                                                        \
    extern "C" void rotate_and_store_##NAME(T* qkv, const T* cos, const T* sin, T* cache, const int64_t* slots,              \
                                            int64_t rows, int64_t H, int64_t Hkv, int64_t D, int64_t turned) {               \
        rotate_and_store(qkv, cos, sin, cache, slots, rows, H, Hkv, D, turned);                                              \
    }                                                                                                                        \
    extern "C" void paged_decode_##NAME(const T* q, int64_t q_stride, const T* cache, const int64_t* table,                  \
                                        int64_t table_stride, const int64_t* lengths, T* out, int64_t R, int64_t H,          \
                                        int64_t Hkv, int64_t D, int64_t S, float scale, int64_t window) {                    \
        paged_decode(q, q_stride, cache, table, table_stride, lengths, out, R, H, Hkv, D, S, scale, window);                 \
    }

EXPORT(float, float32)
EXPORT(bf16, bfloat16)
