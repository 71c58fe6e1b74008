// The table of contents of the native code: every op with its contract; define (define.h) registers
// it. Kernels are registered for the CPU and, where it is built, for CUDA, beside the code that
// runs them (FAMILY/ops_cpu.cpp and ops_cuda.cpp, or NAME_op.cpp); fake kernels and typed Python
// faces are in xaifast/ops, the same formulas in plain PyTorch in xaifast/reference.
//
// Letters of the relevance ops (the book's): a activation, u what enters the weights (a, or its
// positive and negative part side by side along dimension 1), w weight, b bias, z denominator, s =
// R/z, c = w^T s, R relevance. R has the shape of what it belongs to, or one leading axis of
// targets more. All ops: float32, float64, bfloat16, float16; non-contiguous and channels_last
// inputs are legal; results have the layout of the activation; not differentiable (an error says
// so).
#include "define.h"

TORCH_LIBRARY(xaifast, m) {
  using xaifast::define;

  // s = R / (z + b + eps sgn(z + b)), sgn 0 = +1, 0/0 = 0; b [channels] along dimension 1.
  define(m, "stabilized_divide(Tensor R, Tensor z, Tensor? b, float eps) -> Tensor");
  // The same for one target, written over z.
  define(m, "stabilized_divide_(Tensor(a!) z, Tensor R, Tensor? b, float eps) -> Tensor(a!)");

  // R[t n, j] = sum_p u[n, p, j] c[t n, p, j] for u [N, parts x C, ...], c [targets x N, ...].
  define(m, "multiply_parts(Tensor u, Tensor c, int parts) -> Tensor");
  // The same for one part, written over c.
  define(m, "multiply_(Tensor(a!) c, Tensor u) -> Tensor(a!)");

  // u = [max(a, 0), min(a, 0)] along dimension 1.
  define(m, "split_signs(Tensor a) -> Tensor");

  // Rx = x s, Ry = beta y s with s = R / (z + eps sgn z), z = x + beta y.
  define(m, "add_split(Tensor x, Tensor y, Tensor R, float beta, float eps) -> (Tensor, Tensor)");

  // Relevance through a max pooling in 1 to 3 dimensions; rule 'winner_take_all' | 'proportional'.
  define(m,
         "pool_redistribute(Tensor a, Tensor R, int[] kernel, int[] stride, int[] padding, "
         "int[] dilation, str rule, float eps) -> Tensor");

  // c = s w for s [m, K], w [K, J]; few rows of s: rows of w that meet only zeros are not read.
  define(m, "backward_product(Tensor s, Tensor w) -> Tensor");

  // y = w * x + b, max(0, .) of it with relu: 3 x 3 convolution with stride 1 and padding 0 or 1
  // by Winograd's algorithm F(2 x 2, 3 x 3), on transformed weights w [4, 4, K / P, C, P], P = 128
  // bytes; x [N, C, H, W] float32 or float64, y channels last.
  define(m, "winograd_conv(Tensor x, Tensor w, Tensor? b, bool relu, int padding) -> Tensor");

  // Eq. 10.2, R_j = sum over parts of u_j w^T (R / (z + eps sgn z)) with z = w u + b, or z as
  // given. w is the weight of aten::convolution, w_t the same for the transposed product; either
  // may be packed by oneDNN or be one of winograd_conv's; for a w_t in bfloat16 s is rounded to it,
  // summed in float32, and c comes back in the dtype of u. Two parts of u lie side by side along
  // dimension 1; w holds theirs side by side too, along its inputs if there is one group and along
  // the groups if there are more.
  define(
      m,
      "relprop_conv(Tensor u, Tensor R, Tensor w, Tensor w_t, Tensor? b, Tensor? z, int[] kernel, "
      "int[] stride, int[] padding, int[] dilation, bool transposed, int[] output_padding, "
      "int groups, float eps, int parts) -> Tensor");
  // The same as relprop_conv for a plain 2-D convolution with at most 8 channels (of all parts) and
  // 16 rows of kernel, in one pass without z, s or c in memory; w and w_back are the weight and its
  // transpose in panels (ops.few_weights); float32 and float64.
  define(m,
         "relprop_few(Tensor u, Tensor R, Tensor w, Tensor w_back, Tensor? b, Tensor? z, "
         "int[] kernel, int[] stride, int[] padding, float eps, int parts) -> Tensor");
  // The same as relprop_conv for w [out, parts x in] and u [N, parts x in].
  define(m,
         "relprop_linear(Tensor u, Tensor R, Tensor w, Tensor? b, Tensor? z, float eps, int parts) "
         "-> Tensor");

  // Eq. 10.2 of a dense layer by the signs of contributions, without weights of its own, a [N, in]
  // and w [out, in]: the sum over parts of share_p times the rule of contributions q = positive_p
  // (a w)+ + negative_p (a w)-, b counted the same way; z+ is (1, 1, 0). On the CPU, for few rows
  // of R in float32 or float64: weights are read once, and where they meet relevance alone.
  define(m,
         "zplus_linear(Tensor a, Tensor R, Tensor w, Tensor? b, float[] share, float[] positive, "
         "float[] negative, float eps) -> Tensor");

  // The same as relprop_conv, given what contributes: rule 'all' (a w), 'positive' (a w)+,
  // 'negative' (a w)-, 'box' (a - low_c) w+ + (a - high_c) w-, or 'square' w^2; no a is negative
  // where `nonnegative` is set. w_t is w with both kinds of channels exchanged within the groups,
  // if it is known already. kernel 'library' composes relprop_conv; on CUDA also 'tiles' (float32),
  // 'tensor_cores' (float32 is rounded to tf32) and 'pixels' (first layers).
  define(m,
         "zplus_conv(Tensor a, Tensor R, Tensor w, Tensor? w_t, Tensor? b, int[] stride, "
         "int[] padding, int[] dilation, int groups, str rule, float[] low, float[] high, "
         "bool nonnegative, float eps, str kernel) -> Tensor");

  // The many inputs of methods that see a model as a function, and their results. A batch of R rows
  // is made of samples of x [N, ...]: row r belongs to n = sample[r]. The baseline x' [N or 1, ...]
  // and x have the same trailing dimensions, any number of them.

  // out[r] = x'[n] + alpha[r] (x[n] - x'[n]), max(0, .) of it with relu; alpha [R] float64.
  define(
      m,
      "path_points(Tensor x, Tensor baseline, Tensor sample, Tensor alpha, bool relu) -> Tensor");

  // total[n] += sum over r with sample[r] = n of weight[r] g[r], in ascending order of r;
  // total float32 or float64, g not wider, weight [R] float64. Returns nothing, because an op that
  // returns its argument cannot be compiled.
  define(m, "accumulate_rows_(Tensor(a!) total, Tensor g, Tensor sample, Tensor weight) -> ()");

  // out[r] = x[n] + std[n] z, z standard normal: a function of seed, n, draw[r] and the index of
  // the element in the sample alone, in float32; draw [R] int64, std [N] float64.
  define(m, "add_noise(Tensor x, Tensor sample, Tensor draw, Tensor std, int seed) -> Tensor");

  // Windows over all dimensions behind N, one entry of window and stride for each: along a
  // dimension of size S there are ceil((S - window) / stride) + 1, the last cut off at the border,
  // and they are counted with the last dimension fastest.

  // out[k N + n] = x[n], but x'[n] inside of window first + k, for k in [0, count).
  define(m,
         "occlude_windows(Tensor x, Tensor baseline, int[] window, int[] stride, int first, "
         "int count) -> Tensor");
  // out[t, e] = sum (or average) of scores[t, k] over the windows k that cover e; 0 without any.
  define(m,
         "scatter_windows(Tensor scores, int[] shape, int[] window, int[] stride, bool average) "
         "-> Tensor");

  // Labels in [0, M) name the segment of each element: [N or 1, ...], with 1 for dimensions that
  // share them. Nothing is read out of range for other labels.

  // out[r, e] = x[n, e] if on[r, label(n, e)], else x'[n, e]; on [R, M] bool; other labels are on.
  define(m,
         "mask_segments(Tensor x, Tensor baseline, Tensor labels, Tensor on, Tensor sample) "
         "-> Tensor");
  // out[n, c, m] = sum of x[n, c, p] over the positions p of label m, in float64; x [N, C, ...].
  define(m, "segment_sums(Tensor x, Tensor labels, int segments) -> Tensor");

  // out[r, p, :] = box[r, start[r] + p - origin[r], :] where that is in the box, else
  // x[start[r] + p, :] where that is in the map, else fill; x [*shape, channels] with 1 to 3 axes,
  // box [rows, *any size, channels], start and origin [axes, rows] int64, out [rows, *size,
  // channels].
  define(m,
         "cut_boxes(Tensor x, Tensor? box, Tensor? origin, Tensor start, int[] size, float fill) "
         "-> Tensor");

  // ---- recurrent: one layer of an LSTM or GRU in one direction, float32 or float64 -----------

  // All steps, keeping z [T, N, 4 H] and the states [T + 1, N, H]; an LSTM where c0 is given. a [T,
  // N, 4 H or (GRU) 3 H] is what x adds, b what the recurrent map w adds. Blocks of z: i, f, g, o;
  // r, u, n and the recurrent map of n. lengths [N], int64, 0 to T and decreasing (on the CPU
  // checked, on CUDA any order): the steps that each sample has; behind them all results are 0.
  define(m,
         "recurrent_states(Tensor a, Tensor w, Tensor? b, Tensor h0, Tensor? c0, Tensor? "
         "lengths=None) -> (Tensor, Tensor, Tensor)");

  // Back in relevance through all steps (section 11.3); gate 'all' | 'prop' | 'abs' | 'half' is the
  // rule for products (table 11.1). R [targets, T, N, H] of the outputs, R_h and R_c of the last
  // states; b [4 H] is what denominators of linear maps leave out. Returns s = R / (z + eps sgn z)
  // of the maps that x enters [targets, T, N, H, or all gates], R_h0, R_c0. Behind the end of a
  // sample by lengths, R counts for nothing and s is 0.
  define(
      m,
      "recurrent_relprop(Tensor z, Tensor h, Tensor? c, Tensor w, Tensor? b, Tensor R, Tensor R_h, "
      "Tensor? R_c, str gate, float eps, Tensor? lengths=None) -> (Tensor, Tensor, Tensor)");

  // ---- regression: B small problems, float32 or float64, solved and returned in float64 --------
  // X [B or 1, S, M], y [B, S], weight [B or 1, S] >= 0; c [B, M] and the intercept c0 [B].

  // min over c, c0 of sum_s weight_s (y_s - x_s c - c0)^2 + ridge |c|^2, by QR; c of least norm.
  define(
      m,
      "weighted_least_squares(Tensor X, Tensor y, Tensor weight, float ridge, bool intercept) -> "
      "(Tensor, Tensor)");

  // min over c, c0 of 1/(2 S) sum_s w_s (y_s - x_s c - c0)^2 + alpha |c|_1, w = weight S /
  // sum(weight), by coordinate descent; the third result is the duality gap [B] over |y|^2 at the
  // end: above tol where max_iter was reached.
  define(
      m,
      "weighted_lasso(Tensor X, Tensor y, Tensor weight, float alpha, bool intercept, float tol, "
      "int max_iter) -> (Tensor, Tensor, Tensor)");

  // ---- LSTM: gradients along a path ------------------------------------------------------------

  // One layer whose gates i, f, g, o get start + alpha change + w h; start [N or 1, T, 4H], change
  // [N, T, 4H], w [4H, H], float32 or float64. A target m of sample n is S = seed_h . h_t + seed_c
  // . c_t at t = step[m, n]. Returns sum_k weight[m, n, k] dS/d(input of the gates) at alpha[n, k],
  // [M, N, T, 4H], and S and dS/dalpha at the nodes, [M, N, K] float64; alpha and weight float64.
  // A step outside [0, T) is an error on the CPU, and NaN on CUDA.
  define(m,
         "lstm_path(Tensor start, Tensor change, Tensor w, Tensor alpha, Tensor weight, "
         "Tensor seed_h, Tensor seed_c, Tensor step) -> (Tensor, Tensor, Tensor)");

  // ---- weights ---------------------------------------------------------------------------------

  // A hash of all bytes of each tensor, of any dtype, and of its sizes and strides; what is not
  // dense is hashed as if it were contiguous. The same on the CPU and on CUDA, which it waits for.
  // Numbers of the host have no derivative, so weights that require grad may come.
  m.def("fingerprint(Tensor[] tensors) -> int[]");
}
