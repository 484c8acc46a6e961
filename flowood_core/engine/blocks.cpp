// One coupling block of the image flow, forward and backward, one sample after the other.
//
// Every plane (channel) of a sample lies flat with pitch w + 1: pixel (y, x) is at y (w + 1) + x, and the
// extra column and a margin before and after are zero. A 3x3 convolution is then nine shifts of one flat
// array, for any h and w, and every loop runs over pixels in vectors. With s = (dy - 1)(w + 1) + dx - 1, with
// k = (i, dy, dx), j = (o, dy, dx) and q over pixels, the subnet is
//
//     U[k, q] = x[i, q + s]                                 (shifted loads, never stored in float32)
//     h[c, q] = relu(b1[c] + sum_k W1[c, k] U[k, q])        (0 outside the image)
//     P[j, q] = sum_c W2[o, c, dy, dx] h[c, q]
//     a[o, q] = b2[o] + sum_{dy, dx} P[j, q + s]
//
// and backward, with g = dL/da,
//
//     G[j, q] = g[o, q - s],                dh = [h > 0] W2^T G
//     dU = W1^T dh,                         dx[i, q] = sum_{dy, dx} dU[k, q - s]
//     dW1[c, k] = sum_q dh[c, q] U[k, q],   dW2[j, c] = sum_q G[j, q] h[c, q]
//
// Hidden values are computed again in backward and never leave the cache. The order of every sum depends on
// the number of threads only.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

// L floats in a vector; sums of up to ROWS rows times T vectors of pixels, or of WROWS times WCOLS vectors,
// stay in registers, of which there are 32 or 16. CHUNK pixels of all hidden planes stay in the second cache.
// With 16 registers, 4 x 3 sums leave none to spare, and compilers then keep one of the sums in memory.
#if defined(__AVX512F__)
constexpr int L = 16, ROWS = 9, T = 3, WROWS = 5, WCOLS = 5, CHUNK = 1 << 20;
#elif defined(__AVX__)
constexpr int L = 8, ROWS = 6, T = 2, WROWS = 3, WCOLS = 4, CHUNK = 352;
#elif defined(__aarch64__)
constexpr int L = 4, ROWS = 8, T = 3, WROWS = 5, WCOLS = 5, CHUNK = 352;
#else
constexpr int L = 4, ROWS = 6, T = 2, WROWS = 3, WCOLS = 3, CHUNK = 352;
#endif
constexpr int UNROLL = L == 16 ? 1 : 4;  // more registers, more work a turn
constexpr int TILE = T * L, PART = (CHUNK + TILE - 1) / TILE * TILE;

typedef float V __attribute__((vector_size(4 * L)));
typedef int32_t VI __attribute__((vector_size(4 * L)));
typedef float VU __attribute__((vector_size(4 * L), aligned(4), may_alias));
typedef int32_t VIU __attribute__((vector_size(4 * L), aligned(4), may_alias));

#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

INLINE V load(const float* p) { return *reinterpret_cast<const VU*>(p); }
INLINE VI load(const int32_t* p) { return *reinterpret_cast<const VIU*>(p); }
INLINE void store(float* p, V v) { *reinterpret_cast<VU*>(p) = v; }
INLINE V splat(float a) { return a - V{}; }
INLINE V keep(VI mask, V v) { return (V)(mask & (VI)v); }
// comparisons are written so that nan stays nan: a diverged training has to be seen
INLINE V relu(V v) { return keep(~(v < V{}), v); }
INLINE V pick(VI mask, V a, V b) { return (V)((mask & (VI)a) | (~mask & (VI)b)); }

// exp(x) for |x| <= 80, relative error 2e-7: 2^n times a polynomial on |r| <= log(2) / 2
INLINE V exp_(V x) {
    x = pick(x > splat(80.f), splat(80.f), pick(x < splat(-80.f), splat(-80.f), x));
    const V magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
    V t = x * 1.44269504f + magic;
    V n = t - magic;
    V r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    V p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    VI e = ((VI)t - (VI)magic + 127) << 23;
    return p * (V)e;
}

// tanh(x): a ratio of polynomials, exact to a few units in the last place, constant where float32 says +-1
INLINE V tanh_(V x) {
    const V end = splat(7.90531110763549805f);
    x = pick(x > end, end, pick(x < -end, -end, x));
    V x2 = x * x;
    V p = splat(-2.76076847742355e-16f);
    p = p * x2 + 2.00018790482477e-13f;
    p = p * x2 + -8.60467152213735e-11f;
    p = p * x2 + 5.12229709037114e-08f;
    p = p * x2 + 1.48572235717979e-05f;
    p = p * x2 + 6.37261928875436e-04f;
    p = p * x2 + 4.89352455891786e-03f;
    V q = splat(1.19825839466702e-06f);
    q = q * x2 + 1.18534705686654e-04f;
    q = q * x2 + 2.26843463243900e-03f;
    q = q * x2 + 4.89352518554385e-03f;
    return x * p / q;
}

float sum(V v) {
    float total = 0;
    for (int l = 0; l < L; l++) total += v[l];
    return total;
}

int up(int n, int to) { return (n + to - 1) / to * to; }

// ---- shapes and weights

struct Shape {
    int b, c, h, w, hidden;
    bool half;
    int c1, c2, in, out;          // passive and transformed channels; channels into and out of the subnet
    int K, J, pitch, n, margin, S;  // n: pixels of a plane, up to whole tiles; S: distance of two planes
    int part;                       // pixels of a part of the hidden planes, and their distance in float32
    std::vector<int> u, g, part_rows, tile_rows;  // offsets: of U in x, of G in g, of a part, of one tile
    std::vector<int32_t> inside;  // -1 where a flat position is a pixel
    std::vector<uint32_t> inside_pairs;  // the same as bits, of 16 positions twice: for two rows of bfloat16

    Shape(const int64_t* d) {
        b = d[0], c = d[1], h = d[2], w = d[3], hidden = d[4], half = d[5];
        c2 = c / 2, c1 = c - c2, in = c1, out = 2 * c2;
        K = 9 * in, J = 9 * out, pitch = w + 1;
        n = up(h * pitch, half ? 2 * TILE : TILE), part = std::min(n, PART);
        margin = up(pitch + 1, 2 * L), S = n + 2 * margin;
        for (int i = 0; i < in; i++)
            for (int s : shifts()) u.push_back(i * S + s);
        for (int o = 0; o < out; o++)
            for (int s : shifts()) g.push_back(o * S - s);
        for (int r = 0; r < hidden; r++) part_rows.push_back(r * part), tile_rows.push_back(r * TILE);
        inside.assign(n, 0);
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++) inside[y * pitch + x] = -1;
        for (int q = 0; q < n; q += 16) {
            uint32_t bits = 0;
            for (int l = 0; l < 16 && q + l < n; l++) bits |= uint32_t(inside[q + l] & 1) << l;
            inside_pairs.push_back(bits | bits << 16);
        }
    }
    std::vector<int> shifts() const {
        std::vector<int> s;
        for (int dy = -1; dy <= 1; dy++)
            for (int dx = -1; dx <= 1; dx++) s.push_back(dy * pitch + dx);
        return s;
    }
};

// A matrix (rows, k) cut into blocks of rows, stored [block][k][row]: the order in which `product` reads it.
// A block has `unit` times so many rows, a number that differs by one at most, so that none is thin.
struct Blocks {
    int rows, small, large, turn;  // the first `turn` rows are in large blocks
    Blocks(int rows, int unit, int most) : rows(rows) {
        int units = rows / unit, blocks = std::max((units + most - 1) / most, 1);
        small = units / blocks * unit, large = small + unit;
        turn = units % blocks * large;
    }
    int size(int r0) const { return r0 < turn ? large : small; }
};

struct Packed : Blocks {
    int k;
    std::vector<float> data;
    template <class F> Packed(int rows, int k, F at) : Blocks{rows, 1, ROWS}, k(k) {
        data.reserve(size_t(rows) * k);
        for (int r0 = 0, R; r0 < rows; r0 += R) {
            R = size(r0);
            for (int i = 0; i < k; i++)
                for (int r = 0; r < R; r++) data.push_back(at(r0 + r, i));
        }
    }
};

struct Weights {
    const float *b1, *b2;
    Packed w1, w1t, w2, w2t;
    Weights(const Shape& s, const float* W1, const float* b1, const float* W2, const float* b2)
        : b1(b1), b2(b2),
          w1(s.hidden, s.K, [&](int c, int k) { return W1[c * s.K + k]; }),
          w1t(s.K, s.hidden, [&](int k, int c) { return W1[c * s.K + k]; }),
          w2(s.J, s.hidden, [&](int j, int c) { return W2[(j / 9 * s.hidden + c) * 9 + j % 9]; }),
          w2t(s.hidden, s.J, [&](int c, int j) { return W2[(j / 9 * s.hidden + c) * 9 + j % 9]; }) {}
};

// ---- workspaces: kept from call to call, since fresh pages cost more than the arithmetic of a small batch

struct Pool {
    std::mutex lock;
    std::vector<std::pair<size_t, float*>> free;
    std::pair<size_t, float*> take(size_t floats) {
        std::lock_guard<std::mutex> hold(lock);
        for (size_t i = 0; i < free.size(); i++)
            if (free[i].first >= floats) {
                auto found = free[i];
                free.erase(free.begin() + i);
                return found;
            }
        if (!free.empty()) {  // too small for this shape: replaced, not collected
            std::free(free.back().second);
            free.pop_back();
        }
        float* fresh = static_cast<float*>(std::aligned_alloc(64, (floats + 15) / 16 * 64));
        if (!fresh) throw std::bad_alloc();
        return {floats, fresh};
    }
    void give(std::pair<size_t, float*> buffer) {
        std::lock_guard<std::mutex> hold(lock);
        free.push_back(buffer);
    }
} pool;

struct Workspace {
    const Shape& s;
    std::pair<size_t, float*> buffer{0, nullptr};
    size_t used = 0;
    float *x, *d, *a, *g, *p, *hid = nullptr, *dhid = nullptr;
    uint16_t *x16 = nullptr, *g16 = nullptr, *hid16 = nullptr, *dhid16 = nullptr;
    uint32_t *pairs = nullptr, *hid_pairs = nullptr;  // of one tile
    V *dw1, *dw2, *db1, *db2, *dscale, *doffset;

    float* part(size_t floats) {
        float* at = buffer.second ? buffer.second + used : nullptr;
        used += (floats + 15) / 16 * 16;
        return at;
    }
    float* planes(int count) { return part(size_t(count) * s.S) + s.margin; }
    uint16_t* planes16(int count) {
        return reinterpret_cast<uint16_t*>(part(size_t(count) * s.S / 2)) + s.margin;
    }
    uint32_t* tile(int count) { return reinterpret_cast<uint32_t*>(part(size_t(count) * TILE)); }
    void lay(bool backward) {
        used = 0;
        x = planes(s.c), d = planes(s.c), a = planes(s.out), g = planes(s.out);
        p = planes(std::max(s.J, s.K));
        if (s.half) x16 = planes16(s.in), g16 = planes16(s.out);
        size_t zero = used;  // margins and the extra column have to be zero up to here
        if (s.half) {
            int even = up(s.hidden, 2);
            pairs = tile(std::max(s.K, s.J) / 2 + 1), hid_pairs = tile(even / 2);
            if (backward) hid16 = planes16(even), dhid16 = planes16(even);
        } else {
            hid = part(s.hidden * s.part), dhid = backward ? part(s.hidden * s.part) : nullptr;
        }
        size_t before = used;
        if (backward) {
            dw1 = vectors(s.K * s.hidden), dw2 = vectors(s.J * s.hidden), db1 = vectors(s.hidden);
            db2 = vectors(s.out), dscale = vectors(s.c), doffset = vectors(s.c);
        }
        if (buffer.second) {
            std::memset(buffer.second, 0, zero * 4);
            std::memset(static_cast<void*>(buffer.second + before), 0, (used - before) * 4);
        }
    }
    V* vectors(int count) { return reinterpret_cast<V*>(part(size_t(count) * L)); }
    Workspace(const Shape& s, bool backward) : s(s) {
        lay(backward);
        buffer = pool.take(used);
        lay(backward);
    }
    ~Workspace() { pool.give(buffer); }
    Workspace(const Workspace&) = delete;
};

// rows are short: a call of memcpy takes longer than the copy
INLINE void copy_row(const float* from, float* to, int w) {
    int x = 0;
    for (; x + L <= w; x += L) store(to + x, load(from + x));
    for (; x < w; x++) to[x] = from[x];
}

void spread(const Shape& s, const float* dense, int channels, float* planes) {
    for (int c = 0; c < channels; c++)
        for (int y = 0; y < s.h; y++, dense += s.w) copy_row(dense, planes + c * s.S + y * s.pitch, s.w);
}

void gather(const Shape& s, const float* planes, int channels, float* dense) {
    for (int c = 0; c < channels; c++)
        for (int y = 0; y < s.h; y++, dense += s.w) copy_row(planes + c * s.S + y * s.pitch, dense, s.w);
}

// ---- products over one tile of pixels: (rows, k) x (k, TILE); `end` receives each row's T vectors

template <int R, class F>
INLINE void product_rows(const float* A, int nk, const float* B, const int* offset, int r0, F end) {
    V acc[R][T];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) acc[r][t] = V{};
#pragma GCC unroll UNROLL
    for (int k = 0; k < nk; k++, A += R) {
        const float* row = B + offset[k];
        V b[T];
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) b[t] = load(row + t * L);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            V a = splat(A[r]);
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) acc[r][t] += a * b[t];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) end(r0 + r, t, acc[r][t]);
}

template <class F> INLINE void product(const Packed& A, const float* B, const int* offset, F end) {
    const float* data = A.data.data();
    for (int r0 = 0, R; r0 < A.rows; r0 += R) {
        R = A.size(r0);
        switch (R) {
#define CASE(n) \
    case n: \
        if constexpr (n <= ROWS) product_rows<n>(data, A.k, B, offset, r0, end); \
        break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9)
#undef CASE
        }
        data += R * A.k;
    }
}

// out[m][n] += A[m, :] B[n, :] along pixels, in lanes; summed over lanes once, at the end of the batch
template <int M, int N>
INLINE void outer_block(const float* A, const int* oa, const float* B, int sb, int pixels, V* out,
                        int stride) {
    V acc[M][N];
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) acc[m][n] = out[m * stride + n];
    const float* rows[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) rows[m] = A + oa[m];
    for (int q = 0; q < pixels; q += L) {
        V b[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) b[n] = load(B + n * sb + q);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
            V a = load(rows[m] + q);
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) acc[m][n] += a * b[n];
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) out[m * stride + n] = acc[m][n];
}

template <int M>
void outer_rows(const float* A, const int* oa, const float* B, int sb, int nb, int pixels, V* out) {
    const Blocks columns{nb, 1, WCOLS};
    for (int n = 0, N; n < nb; n += N) {
        N = columns.size(n);
        switch (N) {
#define CASE(i) \
    case i: \
        if constexpr (i <= WCOLS) outer_block<M, i>(A, oa, B + n * sb, sb, pixels, out + n, nb); \
        break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5)
#undef CASE
        }
    }
}

void outer(const float* A, const std::vector<int>& oa, const float* B, int sb, int nb, int pixels, V* out) {
    const int na = oa.size();
    const Blocks rows{na, 1, WROWS};
    for (int m = 0, M; m < na; m += M) {
        M = rows.size(m);
        switch (M) {
#define CASE(i) \
    case i: \
        if constexpr (i <= WROWS) outer_rows<i>(A, &oa[m], B, sb, nb, pixels, out + m * nb); \
        break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5)
#undef CASE
        }
    }
}

// out[c] += planes[c, :], in lanes
void add_rows(const float* planes, int distance, int count, int pixels, V* out) {
    for (int c = 0; c < count; c++, planes += distance) {
        V v = out[c];
        for (int q = 0; q < pixels; q += L) v += load(planes + q);
        out[c] = v;
    }
}

// planes[i, q] (+)= start[i] + sum over the nine shifts of p[(i, dy, dx), q + sign s]
void fold(const Shape& s, const float* p, int channels, int sign, const float* start, float* planes,
          bool add) {
    const std::vector<int> shifts = s.shifts();
    for (int i = 0; i < channels; i++)
        for (int q = 0; q < s.n; q += L) {
            V v = splat(start ? start[i] : 0.f);
            for (int e = 0; e < 9; e++) v += load(p + (i * 9 + e) * s.S + q + sign * shifts[e]);
            float* at = planes + i * s.S + q;
            store(at, add ? load(at) + v : v);
        }
}

// ---- the subnet on one sample: ws.x -> ws.a; ws.g -> added to ws.d, and the weights' gradients

INLINE void hidden_tile(const Shape& s, const Weights& w, const float* x, int q, float* hid, int stride) {
    const int32_t* inside = s.inside.data() + q;
    product(w.w1, x + q, s.u.data(), [&](int c, int t, V v) {
        store(hid + c * stride + t * L, keep(load(inside + t * L), relu(v + w.b1[c])));
    });
}

void subnet_forward(const Shape& s, const Weights& w, Workspace& ws) {
    for (int q = 0; q < s.n; q += TILE) {
        hidden_tile(s, w, ws.x, q, ws.hid, TILE);
        product(w.w2, ws.hid, s.tile_rows.data(),
                [&](int j, int t, V v) { store(ws.p + j * s.S + q + t * L, v); });
    }
    fold(s, ws.p, s.out, 1, w.b2, ws.a, false);
}

// hidden planes and their gradients, of pixels q0 to q0 + pixels: ws.hid, ws.dhid and, where wanted, ws.p
void hidden_backward(const Shape& s, const Weights& w, Workspace& ws, int q0, int pixels, bool want_dx) {
    for (int at = 0, q = q0; at < pixels; at += TILE, q += TILE) {
        float *hid = ws.hid + at, *dhid = ws.dhid + at;
        hidden_tile(s, w, ws.x, q, hid, s.part);
        product(w.w2t, ws.g + q, s.g.data(), [&](int c, int t, V v) {
            int i = c * s.part + t * L;
            store(dhid + i, keep(load(hid + i) > V{}, v));
        });
        if (want_dx)
            product(w.w1t, dhid, s.part_rows.data(),
                    [&](int k, int t, V v) { store(ws.p + k * s.S + q + t * L, v); });
    }
}

void subnet_backward(const Shape& s, const Weights& w, Workspace& ws, bool want_dx) {
    for (int q = 0; q < s.n; q += s.part) {
        const int pixels = std::min(s.part, s.n - q);
        hidden_backward(s, w, ws, q, pixels, want_dx);
        outer(ws.x + q, s.u, ws.dhid, s.part, s.hidden, pixels, ws.dw1);
        outer(ws.g + q, s.g, ws.hid, s.part, s.hidden, pixels, ws.dw2);
        add_rows(ws.dhid, s.part, s.hidden, pixels, ws.db1);
    }
}

#ifdef __AVX512BF16__
// ---- the same with products in bfloat16 and sums in float32. The instruction adds products of pairs: of rows
// k, j or c where these are summed, stored as [pair][pixel][2], and of pixels for the weights' gradients.

uint16_t half(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    if (v != v) return 0x7fc0;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
}

INLINE __m512 dot(__m512 acc, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
}
INLINE __m256i load16(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

struct Packed16 : Blocks {
    int k;  // pairs
    std::vector<uint32_t> data;
    // `rows` may pass `real_rows`, and 2 k may pass `real_k`: zeros
    template <class F>
    Packed16(int rows, int unit, int real_rows, int real_k, F at)
        : Blocks{rows, unit, unit == 1 ? 9 : 4}, k((real_k + 1) / 2) {
        auto value = [&](int r, int i) -> uint32_t {
            return r < real_rows && i < real_k ? half(at(r, i)) : 0;
        };
        for (int r0 = 0, R; r0 < rows; r0 += R) {
            R = size(r0);
            for (int i = 0; i < k; i++)
                for (int r = r0; r < r0 + R; r++)
                    data.push_back(value(r, 2 * i) | value(r, 2 * i + 1) << 16);
        }
    }
};

struct Weights16 {
    std::vector<float> b1;
    const float* b2;
    Packed16 w1, w1t, w2, w2t;
    Weights16(const Shape& s, const float* W1, const float* b1, const float* W2, const float* b2)
        : b1(b1, b1 + s.hidden), b2(b2),
          w1(up(s.hidden, 2), 2, s.hidden, s.K, [&](int c, int k) { return W1[c * s.K + k]; }),
          w1t(s.K, 1, s.K, s.hidden, [&](int k, int c) { return W1[c * s.K + k]; }),
          w2(s.J, 1, s.J, s.hidden, [&](int j, int c) { return W2[(j / 9 * s.hidden + c) * 9 + j % 9]; }),
          w2t(up(s.hidden, 2), 2, s.hidden, s.J,
              [&](int c, int j) { return W2[(j / 9 * s.hidden + c) * 9 + j % 9]; }) {
        this->b1.resize(up(s.hidden, 2));
    }
};

void to_half(const Shape& s, const float* planes, int channels, uint16_t* out) {
    for (int c = 0; c < channels; c++)
        for (int q = 0; q < s.n; q += 16) {
            __m256bh v = _mm512_cvtneps_pbh(_mm512_loadu_ps(planes + c * s.S + q));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c * s.S + q), (__m256i)v);
        }
}

// rows k and k + 1 of shifted loads, pixel by pixel beside each other, for one tile
void pair_rows(const uint16_t* planes, const std::vector<int>& offset, uint32_t* out) {
    const int count = offset.size();
    for (int k = 0; k < count; k += 2, out += TILE) {
        const uint16_t *even = planes + offset[k], *odd = planes + offset[std::min(k + 1, count - 1)];
        for (int t = 0; t < T; t++) {
            __m512i low = _mm512_cvtepu16_epi32(load16(even + t * 16));
            __m512i high = _mm512_cvtepu16_epi32(load16(odd + t * 16));
            _mm512_storeu_si512(out + t * 16, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
}

template <int R, class F>
INLINE void product_rows16(const uint32_t* A, int nk, const uint32_t* B, const float* start, int r0, F end) {
    __m512 acc[R][T];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) acc[r][t] = start ? _mm512_set1_ps(start[r0 + r]) : _mm512_setzero_ps();
    for (int k = 0; k < nk; k++, A += R, B += TILE) {
        __m512i b[T];
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) b[t] = _mm512_loadu_si512(B + t * 16);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            __m512i a = _mm512_set1_epi32(A[r]);
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) acc[r][t] = dot(acc[r][t], a, b[t]);
        }
    }
    end(r0, acc);
}

// (rows, k) x (k, TILE) plus `start`, one number a row, where there is one
template <class F> INLINE void product16(const Packed16& A, const uint32_t* B, const float* start, F end) {
    const uint32_t* data = A.data.data();
    for (int r0 = 0, R; r0 < A.rows; r0 += R) {
        R = A.size(r0);
        switch (R) {
#define CASE(n) \
    case n: product_rows16<n>(data, A.k, B, start, r0, end); break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9)
#undef CASE
        }
        data += R * A.k;
    }
}

INLINE __m512i beside(__m512i v) {  // 16 even values, then 16 odd ones -> pairs
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                         23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, v);
}

// two rows c, c + 1 of one vector: pairs for the next product, and each on its own in `plane` if there is one
INLINE void put_pair(__m512i both, uint32_t* pairs, uint16_t* plane, int S) {
    _mm512_storeu_si512(pairs, beside(both));
    if (plane) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(plane), _mm512_castsi512_si256(both));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(plane + S), _mm512_extracti64x4_epi64(both, 1));
    }
}

// 16 numbers of row c, then 16 of row c + 1, in bfloat16; zero where `mask` has no bit
INLINE __m512i halves(uint32_t mask, __m512 even, __m512 odd) {
    return (__m512i)_mm512_maskz_cvtne2ps_pbh(mask, odd, even);
}

template <bool keep_planes> void hidden_tile16(const Shape& s, const Weights16& w, Workspace& ws, int q) {
    pair_rows(ws.x16 + q, s.u, ws.pairs);
    const uint32_t* inside = s.inside_pairs.data() + q / 16;
    product16(w.w1, ws.pairs, w.b1.data(), [&](int r0, auto& acc) INLINE_LAMBDA {
        constexpr int R = sizeof(acc) / sizeof(acc[0]);
        const __m512 zero = _mm512_setzero_ps();
#pragma GCC unroll 16
        for (int r = 0; r + 1 < R; r += 2)
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) {
                const int c = r0 + r;
                // of two numbers one of which is nan the instruction returns the second
                __m512 even = _mm512_max_ps(zero, acc[r][t]), odd = _mm512_max_ps(zero, acc[r + 1][t]);
                uint16_t* plane = keep_planes ? ws.hid16 + c * s.S + q + t * 16 : nullptr;
                put_pair(halves(inside[t], even, odd), ws.hid_pairs + c / 2 * TILE + t * 16, plane, s.S);
            }
    });
}

void store_planes16(const Shape& s, const Packed16& A, const uint32_t* B, float* planes) {
    product16(A, B, nullptr, [&](int r0, auto& acc) INLINE_LAMBDA {
        constexpr int R = sizeof(acc) / sizeof(acc[0]);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) store(planes + (r0 + r) * s.S + t * 16, (V)acc[r][t]);
    });
}

void subnet_forward(const Shape& s, const Weights16& w, Workspace& ws) {
    to_half(s, ws.x, s.in, ws.x16);
    for (int q = 0; q < s.n; q += TILE) {
        hidden_tile16<false>(s, w, ws, q);
        store_planes16(s, w.w2, ws.hid_pairs, ws.p + q);
    }
    fold(s, ws.p, s.out, 1, w.b2, ws.a, false);
}

template <int M, int N>
INLINE void outer_block16(const uint16_t* A, const int* oa, const uint16_t* B, int sb, int pixels, V* out,
                          int stride) {
    __m512 acc[M][N];
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) acc[m][n] = (__m512)out[m * stride + n];
    for (int q = 0; q < pixels; q += 32) {
        __m512i b[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) b[n] = _mm512_loadu_si512(B + n * sb + q);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
            __m512i a = _mm512_loadu_si512(A + oa[m] + q);
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) acc[m][n] = dot(acc[m][n], a, b[n]);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) out[m * stride + n] = (V)acc[m][n];
}

template <int M>
void outer_rows16(const uint16_t* A, const int* oa, const uint16_t* B, int sb, int nb, int pixels, V* out) {
    int n = 0;
    for (; n + 4 <= nb; n += 4) outer_block16<M, 4>(A, oa, B + n * sb, sb, pixels, out + n, nb);
    for (; n < nb; n++) outer_block16<M, 1>(A, oa, B + n * sb, sb, pixels, out + n, nb);
}

void outer16(const uint16_t* A, const std::vector<int>& oa, const uint16_t* B, int sb, int nb, int pixels,
             V* out) {
    const int na = oa.size();
    int m = 0;
    for (; m + 6 <= na; m += 6) outer_rows16<6>(A, &oa[m], B, sb, nb, pixels, out + m * nb);
    for (; m < na; m++) outer_rows16<1>(A, &oa[m], B, sb, nb, pixels, out + m * nb);
}

// out[r] += planes[r, :], in lanes; several rows at once, since a sum waits for itself
template <int R> void add_rows16(const uint16_t* planes, int distance, int pixels, V* out) {
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    __m512 acc[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) acc[r] = (__m512)out[r];
    for (int q = 0; q < pixels; q += 32)
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) acc[r] = dot(acc[r], _mm512_loadu_si512(planes + r * distance + q), ones);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) out[r] = (V)acc[r];
}

void subnet_backward(const Shape& s, const Weights16& w, Workspace& ws, bool want_dx) {
    to_half(s, ws.x, s.in, ws.x16);
    to_half(s, ws.g, s.out, ws.g16);
    for (int q = 0; q < s.n; q += TILE) {
        hidden_tile16<true>(s, w, ws, q);
        pair_rows(ws.g16 + q, s.g, ws.pairs);
        product16(w.w2t, ws.pairs, nullptr, [&](int r0, auto& acc) INLINE_LAMBDA {
            constexpr int R = sizeof(acc) / sizeof(acc[0]);
#pragma GCC unroll 16
            for (int r = 0; r + 1 < R; r += 2)
#pragma GCC unroll 4
                for (int t = 0; t < T; t++) {
                    const int c = r0 + r, at = c * s.S + q + t * 16;
                    __m256i h0 = load16(ws.hid16 + at), h1 = load16(ws.hid16 + at + s.S);
                    __mmask32 positive = _mm512_kunpackw(_mm256_test_epi16_mask(h1, h1),
                                                         _mm256_test_epi16_mask(h0, h0));
                    put_pair(halves(positive, acc[r][t], acc[r + 1][t]),
                             ws.hid_pairs + c / 2 * TILE + t * 16, ws.dhid16 + at, s.S);
                }
        });
        if (want_dx) store_planes16(s, w.w1t, ws.hid_pairs, ws.p + q);
    }
    outer16(ws.x16, s.u, ws.dhid16, s.S, s.hidden, s.n, ws.dw1);
    outer16(ws.g16, s.g, ws.hid16, s.S, s.hidden, s.n, ws.dw2);
    const uint16_t* rows = ws.dhid16;
    int c = 0;
    for (; c + 8 <= s.hidden; c += 8, rows += 8 * s.S) add_rows16<8>(rows, s.S, s.n, ws.db1 + c);
    for (; c < s.hidden; c++, rows += s.S) add_rows16<1>(rows, s.S, s.n, ws.db1 + c);
}
#endif

// ---- the block: v = (x1, x2 exp(l) + t) with l = clamp tanh(0.1 a), t = 0.1 a'; y = M (scale v + offset)

struct Affine {
    float clamp;
    const float *scale, *offset, *M;
};

float couple_forward(const Shape& s, const Affine& f, Workspace& ws) {
    // v replaces x2 in ws.x, whose extra column nobody reads; y goes to ws.d
    V total = V{};
    for (int q = 0; q < s.n; q += L)
        for (int j = 0; j < s.c2; j++) {
            float* x2 = ws.x + (s.c1 + j) * s.S + q;
            V l = f.clamp * tanh_(0.1f * load(ws.a + j * s.S + q));
            V t = 0.1f * load(ws.a + (s.c2 + j) * s.S + q);
            store(x2, load(x2) * exp_(l) + t);
            total += keep(load(s.inside.data() + q), l);
        }
    for (int i = 0; i < s.c; i++) {
        float shift = 0;
        for (int j = 0; j < s.c; j++) shift += f.M[i * s.c + j] * f.offset[j];
        for (int q = 0; q < s.n; q += L) store(ws.d + i * s.S + q, splat(shift));
        for (int j = 0; j < s.c; j++) {
            float m = f.M[i * s.c + j];
            if (m == 0) continue;  // a permutation has one entry a row
            for (int q = 0; q < s.n; q += L) {
                float* y = ws.d + i * s.S + q;
                store(y, load(y) + m * f.scale[j] * load(ws.x + j * s.S + q));
            }
        }
    }
    return sum(total);
}

// ws.g <- dL/da and ws.d <- dL/dx without the subnet's part, from dL/dy
void couple_backward(const Shape& s, const Affine& f, Workspace& ws, const float* dy, float dladj) {
    for (int j = 0; j < s.c; j++) {
        float* w = ws.d + j * s.S;
        for (int q = 0; q < s.n; q += L) store(w + q, V{});
        for (int i = 0; i < s.c; i++) {
            float m = f.M[i * s.c + j];
            if (m == 0) continue;
            for (int y = 0; y < s.h; y++)
                for (int x = 0; x < s.w; x++) w[y * s.pitch + x] += m * dy[(i * s.h + y) * s.w + x];
        }
    }
    for (int j = 0; j < s.c; j++) {
        V dscale = ws.dscale[j], doffset = ws.doffset[j];
        V scale = splat(f.scale[j]);
        for (int q = 0; q < s.n; q += L) {
            float* at = ws.d + j * s.S + q;
            V w = load(at), x = load(ws.x + j * s.S + q), d = w * scale;
            doffset += w;
            if (j < s.c1) {
                dscale += w * x;
                store(at, d);
                continue;
            }
            int k = (j - s.c1) * s.S + q, k2 = k + s.c2 * s.S;
            V th = tanh_(0.1f * load(ws.a + k)), e = exp_(f.clamp * th);
            V t = 0.1f * load(ws.a + k2);
            dscale += w * (x * e + t);
            V dl = d * x * e + dladj;
            store(ws.g + k, keep(load(s.inside.data() + q), 0.1f * f.clamp * dl * (1.f - th * th)));
            store(ws.g + k2, 0.1f * d);
            store(at, d * e);
        }
        ws.dscale[j] = dscale, ws.doffset[j] = doffset;
    }
}

// ---- threads: samples are shared out in runs, so that a number of threads always gives the same sums

template <class F> void each_part(int b, int threads, F run) {
    std::vector<std::thread> others;
    for (int t = 1; t < threads; t++) {
        auto part = [=] { run(t, int64_t(b) * t / threads, int64_t(b) * (t + 1) / threads); };
        try {
            others.emplace_back(part);
        } catch (const std::system_error&) {
            part();  // no more threads to be had: the same sums, later
        }
    }
    run(0, 0, b / threads);
    for (auto& t : others) t.join();
}

// An outlier far below the threshold of eq. (3) has a gradient of zero, to the bit: nothing is to be done for it. Where
// its log p is -inf this leaves zeros, and zero times infinity, which is nan, in torch; a nan has a gradient and stays.
bool is_zero(const float* values, int64_t count) {
    return std::all_of(values, values + count, [](float v) { return v == 0; });
}

using Workspaces = std::vector<std::unique_ptr<Workspace>>;

Workspaces workspaces(const Shape& s, int64_t threads, bool backward) {
    Workspaces all;
    for (int t = 0; t < std::min<int64_t>(threads, s.b); t++) all.emplace_back(new Workspace(s, backward));
    return all;
}

template <class F> void total(int count, const Workspaces& all, V* Workspace::*part, F put) {
    for (int i = 0; i < count; i++) {
        float v = 0;
        for (const auto& ws : all) v += sum(((*ws).*part)[i]);
        put(i, v);
    }
}

struct Arrays {
    const float *x, *a, *dy, *dladj;
    float *y, *ladj, *a_out, *dx;
};

template <class W>
void forward(const Shape& s, const W& w, const Affine& f, const Arrays& io, const Workspaces& all) {
    const int64_t size = int64_t(s.h) * s.w;
    each_part(s.b, all.size(), [&](int t, int from, int to) {
        Workspace& ws = *all[t];
        for (int i = from; i < to; i++) {
            spread(s, io.x + i * s.c * size, s.c, ws.x);
            subnet_forward(s, w, ws);
            if (io.a_out) gather(s, ws.a, s.out, io.a_out + i * s.out * size);
            io.ladj[i] = couple_forward(s, f, ws);
            gather(s, ws.d, s.c, io.y + i * s.c * size);
        }
    });
}

template <class W>
void backward(const Shape& s, const W& w, const Affine& f, const Arrays& io, const Workspaces& all) {
    const int64_t size = int64_t(s.h) * s.w;
    each_part(s.b, all.size(), [&](int t, int from, int to) {
        Workspace& ws = *all[t];
        for (int i = from; i < to; i++) {
            if (io.dladj[i] == 0 && is_zero(io.dy + i * s.c * size, s.c * size)) {
                if (io.dx) std::fill_n(io.dx + i * s.c * size, s.c * size, 0.f);
                continue;
            }
            spread(s, io.x + i * s.c * size, s.c, ws.x);
            spread(s, io.a + i * s.out * size, s.out, ws.a);
            couple_backward(s, f, ws, io.dy + i * s.c * size, io.dladj[i]);
            add_rows(ws.g, s.S, s.out, s.n, ws.db2);
            subnet_backward(s, w, ws, io.dx != nullptr);
            if (io.dx) {
                fold(s, ws.p, s.in, -1, nullptr, ws.d, true);
                gather(s, ws.d, s.c, io.dx + i * s.c * size);
            }
        }
    });
}

}  // namespace

// Three extended-box passes along x, then three along y, each rounded to 8 bits with the edge repeated: Pillow's
// GaussianBlur in integers. Weights are in units of 2^-24 and sum to 2^24, so that 255 of them fit 32 bits.
struct Box {
    int64_t reach;
    uint32_t inner, outer;
};

// out[i] from the window centred at i; `at(k)` is the line of bytes shifted by k, |k| <= reach + 1
template <class Line>
static void box_pass(uint8_t* out, uint32_t* sum, int64_t n, const Box& box, Line at) {
    const uint8_t* first = at(-box.reach);
    for (int64_t i = 0; i < n; ++i) sum[i] = first[i];
    for (int64_t k = 1 - box.reach; k <= box.reach; ++k) {
        const uint8_t* line = at(k);
        for (int64_t i = 0; i < n; ++i) sum[i] += line[i];
    }
    const uint8_t *left = at(-box.reach - 1), *right = at(box.reach + 1);
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t ends = uint32_t(left[i]) + right[i];
        out[i] = uint8_t((sum[i] * box.inner + ends * box.outer + (1u << 23)) >> 24);
    }
}

static void blur_plane(const uint8_t* in, uint8_t* out, int64_t h, int64_t w, const Box& box,
                       std::vector<uint8_t>& padded, std::vector<uint8_t>& other, std::vector<uint32_t>& sum) {
    const int64_t margin = box.reach + 1;
    padded.resize(w + 2 * margin);
    other.resize(h * w);
    sum.resize(w);
    for (int64_t y = 0; y < h; ++y) {
        const uint8_t* row = in + y * w;
        for (int pass = 0; pass < 3; ++pass) {
            std::fill_n(padded.data(), margin, row[0]);
            std::copy_n(row, w, padded.data() + margin);
            std::fill_n(padded.data() + margin + w, margin, row[w - 1]);
            box_pass(out + y * w, sum.data(), w, box, [&](int64_t k) { return padded.data() + margin + k; });
            row = out + y * w;
        }
    }
    uint8_t *from = out, *to = other.data();
    for (int pass = 0; pass < 3; ++pass, std::swap(from, to))
        for (int64_t y = 0; y < h; ++y)
            box_pass(to + y * w, sum.data(), w, box, [&](int64_t k) {
                return from + std::min(std::max(y + k, int64_t(0)), h - 1) * w;
            });
    std::copy_n(from, h * w, out);  // an odd number of passes ends in the other plane
}

extern "C" {

// 1: float32 only; 2: products in bfloat16 too
int flowood_kinds() {
#ifdef __AVX512BF16__
    return 2;
#else
    return 1;
#endif
}

// dims: planes, h, w, reach, inner, outer
int flowood_blur(const int64_t* dims, const uint8_t* in, uint8_t* out) {
    try {
        const Box box{dims[3], uint32_t(dims[4]), uint32_t(dims[5])};
        std::vector<uint8_t> padded, other;
        std::vector<uint32_t> sum;
        const int64_t size = dims[1] * dims[2];
        for (int64_t p = 0; p < dims[0]; ++p)
            blur_plane(in + p * size, out + p * size, dims[1], dims[2], box, padded, other, sum);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

// dims: b, c, h, w, hidden, bfloat16, threads. All arrays are dense and contiguous; `a` may be null.
// Returns 1 where memory does not suffice, else 0.
int flowood_forward(const int64_t* dims, float clamp, const float* x, const float* W1, const float* b1,
                    const float* W2, const float* b2, const float* scale, const float* offset, const float* M,
                    float* y, float* ladj, float* a) try {
    const Shape s(dims);
    const Affine f{clamp, scale, offset, M};
    const Arrays io{x, nullptr, nullptr, nullptr, y, ladj, a, nullptr};
    const Workspaces all = workspaces(s, dims[6], false);
#ifdef __AVX512BF16__
    if (s.half) return forward(s, Weights16(s, W1, b1, W2, b2), f, io, all), 0;
#endif
    forward(s, Weights(s, W1, b1, W2, b2), f, io, all);
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}

// `dx` may be null. The gradients of the parameters are written, not added.
int flowood_backward(const int64_t* dims, float clamp, const float* x, const float* a, const float* W1,
                     const float* b1, const float* W2, const float* b2, const float* scale,
                     const float* offset, const float* M, const float* dy, const float* dladj, float* dx,
                     float* dW1, float* db1, float* dW2, float* db2, float* dscale, float* doffset) try {
    const Shape s(dims);
    const Affine f{clamp, scale, offset, M};
    const Arrays io{x, a, dy, dladj, nullptr, nullptr, nullptr, dx};
    const Workspaces all = workspaces(s, dims[6], true);
#ifdef __AVX512BF16__
    if (s.half)
        backward(s, Weights16(s, W1, b1, W2, b2), f, io, all);
    else
#endif
        backward(s, Weights(s, W1, b1, W2, b2), f, io, all);
    total(s.K * s.hidden, all, &Workspace::dw1,
          [&](int i, float v) { dW1[i % s.hidden * s.K + i / s.hidden] = v; });
    total(s.J * s.hidden, all, &Workspace::dw2, [&](int i, float v) {
        int j = i / s.hidden, c = i % s.hidden;
        dW2[(j / 9 * s.hidden + c) * 9 + j % 9] = v;
    });
    total(s.hidden, all, &Workspace::db1, [&](int i, float v) { db1[i] = v; });
    total(s.out, all, &Workspace::db2, [&](int i, float v) { db2[i] = v; });
    total(s.c, all, &Workspace::dscale, [&](int i, float v) { dscale[i] = v; });
    total(s.c, all, &Workspace::doffset, [&](int i, float v) { doffset[i] = v; });
    return 0;
} catch (const std::bad_alloc&) {
    return 1;
}
}
