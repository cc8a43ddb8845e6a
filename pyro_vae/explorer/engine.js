// The model in plain JavaScript: networks, p(x | z), q(z | x), p(z) and bounds on log p(x), one datum at a time.

const HALF_LOG_2PI = 0.5 * Math.log(2 * Math.PI);

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** The error function, to 1.2e-7: Numerical Recipes (Press et al., 1992), section 6.2. */
function erf(x) {
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const series = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587,
    -0.82215223, 0.17087277];
  const tail = t * Math.exp(-x * x + series.reduceRight((sum, c) => sum * t + c, 0));
  return x >= 0 ? 1 - tail : tail - 1;
}

const ACTIVATIONS = {
  tanh: () => Math.tanh,
  relu: () => (x) => Math.max(x, 0),
  sigmoid: () => sigmoid,
  silu: () => (x) => x * sigmoid(x),
  softplus: (beta) => (x) => softplus(beta * x) / beta,
  elu: (alpha) => (x) => (x > 0 ? x : alpha * Math.expm1(x)),
  leaky_relu: (slope) => (x) => (x > 0 ? x : slope * x),
  gelu: () => (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
};

/** y[i step + start] = sum_j w[i, j] x[j] + b[i]; four rows at a time, which share the loads of x. */
function multiply(w, x, b, y, start, step) {
  const columns = x.length, rows = w.length / columns;
  let i = 0;
  for (; i + 3 < rows; i += 4) {
    const p = i * columns, q = p + columns, r = q + columns, s = r + columns;
    let c = 0, d = 0, e = 0, f = 0;
    for (let j = 0; j < columns; j++) {
      const value = x[j];
      c += w[p + j] * value; d += w[q + j] * value; e += w[r + j] * value; f += w[s + j] * value;
    }
    const at = start + i * step;
    y[at] = c + b[i]; y[at + step] = d + b[i + 1]; y[at + 2 * step] = e + b[i + 2]; y[at + 3 * step] = f + b[i + 3];
  }
  for (; i < rows; i++) {
    let sum = b[i];
    for (let j = 0; j < columns; j++) sum += w[i * columns + j] * x[j];
    y[start + i * step] = sum;
  }
  return y;
}

/** The numbers under the kernel at row i and column j, channels first. */
function patch(x, { shape: [channels, height, width], kernel, stride, padding }, i, j, y) {
  let at = 0;
  for (let c = 0; c < channels; c++) {
    for (let k = 0; k < kernel; k++) {
      const row = i * stride + k - padding, inside = row >= 0 && row < height;
      const base = (c * height + row) * width;
      for (let l = 0; l < kernel; l++) {
        const column = j * stride + l - padding;
        y[at++] = inside && column >= 0 && column < width ? x[base + column] : 0;
      }
    }
  }
  return y;
}

const LAYERS = {
  linear: (x, { w, b }) => multiply(w, x, b, new Float64Array(b.length), 0, 1),
  activation: (x, { f: [name, ...options] }) => x.map(ACTIVATIONS[name](...options)),
  context: (x, { w }, label) => x.map((value, i) => value + dot(w, label, i)),
  concatenate: (x, layer, label) => Float64Array.from([...x, ...label]),
  residual: (x, { layers }) => run(layers, x).map((value, i) => value + x[i]),
  glu(x, { phases }) {
    const size = x.length / (2 * phases), y = new Float64Array(x.length / 2);
    for (let i = 0; i < y.length; i++) {
      const at = 2 * size * Math.floor(i / size) + (i % size);
      y[i] = x[at] * sigmoid(x[at + size]);
    }
    return y;
  },
  convolution(x, layer) {
    const { w, b, kernel, shape, sides: [height, width] } = layer;
    const y = new Float64Array(b.length * height * width), column = new Float64Array(shape[0] * kernel * kernel);
    for (let i = 0; i < height; i++) {
      for (let j = 0; j < width; j++) {
        multiply(w, patch(x, layer, i, j, column), b, y, i * width + j, height * width);
      }
    }
    return y;
  },
  /** The four phases, first among the channels, become the pixels of blocks of two by two. */
  interleave(x, { shape: [all, height, width] }) {
    const channels = all / 4, y = new Float64Array(x.length);
    for (let i = 0, at = 0; i < all; i++) {
      const phase = Math.floor(i / channels), c = i % channels;
      for (let r = 0; r < height; r++) {
        const row = (c * 2 * height + 2 * r + (phase >> 1)) * 2 * width + (phase & 1);
        for (let s = 0; s < width; s++) y[row + 2 * s] = x[at++];
      }
    }
    return y;
  },
  crop(x, { shape: [channels, fullHeight, fullWidth], height, width }) {
    const y = new Float64Array(channels * height * width);
    for (let c = 0, at = 0; c < channels; c++) {
      for (let r = 0; r < height; r++) {
        for (let s = 0; s < width; s++) y[at++] = x[(c * fullHeight + r) * fullWidth + s];
      }
    }
    return y;
  },
};

function dot(w, x, row) {
  let sum = 0;
  for (let j = 0; j < x.length; j++) sum += w[row * x.length + j] * x[j];
  return sum;
}

/** Outputs of a network for one datum, and for a label if the network takes one. */
function run(layers, x, label) {
  return layers.reduce((value, layer) => LAYERS[layer.op](value, layer, label), Float64Array.from(x));
}

const sum = (array) => array.reduce((total, value) => total + value, 0);

function logSumExp(values) {
  const largest = values.reduce((a, b) => Math.max(a, b), -Infinity);
  return largest === -Infinity ? largest : largest + Math.log(values.reduce((t, v) => t + Math.exp(v - largest), 0));
}

function softmax(logits) {
  const total = logSumExp(logits);
  return Array.from(logits, (value) => Math.exp(value - total));
}

/** log(sinh(y) / y) and coth(y) - 1 / y, by series near 0. */
const logSinhc = (y) => (Math.abs(y) < 0.25 ? y * y / 6 - y ** 4 / 180 + y ** 6 / 2835 - y ** 8 / 37800
  : Math.abs(y) + Math.log1p(-Math.exp(-2 * Math.abs(y))) - Math.log(2 * Math.abs(y)));
const langevin = (y) => (Math.abs(y) < 0.25 ? y / 3 - y ** 3 / 45 + 2 * y ** 5 / 945 - y ** 7 / 4725
  : 1 / Math.tanh(y) - 1 / y);

// Mean and log probability of one entry x of a datum, from the network's output f with the offset added.
const LIKELIHOODS = {
  bernoulli: { mean: sigmoid, log: (f, x) => x * f - softplus(f) },
  continuous_bernoulli: {
    mean: (f) => 0.5 + langevin(f / 2) / 2,
    log: (f, x) => f * (x - 0.5) - logSinhc(f / 2),
  },
  normal: { mean: (f) => f, log: (f, x, s) => -0.5 * ((x - f) / s) ** 2 - Math.log(s) - HALF_LOG_2PI },
  laplace: { mean: (f) => f, log: (f, x, s) => -Math.abs(x - f) / s - Math.log(2 * s) },
  discretized_logistic: {
    mean(f, s, levels) {
      let total = 0;
      for (let k = 1; k < levels; k++) total += sigmoid((f - (k - 0.5) / (levels - 1)) / s);
      return total / (levels - 1);
    },
    log(f, x, s, levels) {
      const h = 0.5 / (levels - 1), upper = (x + h - f) / s, lower = (x - h - f) / s;
      if (x < h) return -softplus(-upper);
      if (x > 1 - h) return -softplus(lower);
      return -softplus(-upper) - softplus(lower) + Math.log(-Math.expm1((-2 * h) / s));
    },
  },
};

/** Normal numbers of a seed: mulberry32, then Box and Muller. */
function generator(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normals: (size) => Float64Array.from({ length: size }, normal) };
}

/** The model of a description: the functions of the page, and of the tests that compare them with torch. */
function modelOf({ latent_dim: size, prior, likelihood, guide, classes, classifier, label_prior: labelPrior }) {
  const kind = LIKELIHOODS[likelihood.kind], { offset, levels } = likelihood;

  /** A class as a one-hot vector; vectors, such as mixtures of classes, stay. */
  const oneHot = (y) => typeof y === "object" ? y : Float64Array.from({ length: classes }, (_, c) => (c === y ? 1 : 0));

  /** Outputs f with the offset, and scales, of p(x | z, y). */
  function outputs(z, y) {
    const f = run(likelihood.layers, z, oneHot(y)), { scale, log_scale: logScale } = likelihood;
    const scales = !logScale ? scale : Float64Array.from(offset, (_, i) =>
      likelihood.min_scale + Math.exp(logScale[logScale.length === 1 ? 0 : i] + f[offset.length + i]));
    return { f: Float64Array.from(offset, (o, i) => f[i] + o), scales };
  }

  /** The mean of p(x | z, y). */
  function decode(z, y) {
    const { f, scales } = outputs(z, y);
    return f.map((value, i) => kind.mean(value, scales && scales[i], levels));
  }

  /** log p(x | z, y). */
  function logLikelihood(x, z, y) {
    const { f, scales } = outputs(z, y);
    let total = 0;
    for (let i = 0; i < f.length; i++) total += kind.log(f[i], x[i], scales && scales[i], levels);
    return total;
  }

  /** q(z | x, y): its mean, and a sample with its log density, from normal numbers. */
  function posterior(x, y) {
    const params = run(guide.layers, x, oneHot(y)), [low, high] = guide.log_scale_bounds;
    const loc = params.slice(0, size), logScale = params.slice(size, 2 * size).map((s) => Math.min(Math.max(s, low), high));
    const constant = sum(logScale) + size * HALF_LOG_2PI, full = guide.kind === "full";
    const noise = (e, i) => { // row i of I + A / L times e; entries of A follow row by row
      let value = e[i];
      for (let j = 0; full && j < i; j++) value += (params[2 * size + (i * (i - 1)) / 2 + j] / size) * e[j];
      return value;
    };
    return { loc, sample: (e) => ({
      z: loc.map((mu, i) => mu + Math.exp(logScale[i]) * noise(e, i)),
      log: -0.5 * sum(e.map((v) => v * v)) - constant,
    }) };
  }

  /** log p(z), of a mixture of diagonal normals. */
  function logPrior(z) {
    return logSumExp(Array.from(prior.logits, (logit, c) => {
      let total = logit - size * HALF_LOG_2PI;
      for (let i = 0; i < size; i++) {
        const scale = prior.scales[c * size + i], e = (z[i] - prior.locs[c * size + i]) / scale;
        total -= 0.5 * e * e + Math.log(scale);
      }
      return total;
    }));
  }

  /** z from the prior, with its components' scales multiplied by a temperature. */
  function samplePrior(random, temperature) {
    const u = random.uniform(), weights = softmax(prior.logits);
    let c = 0, total = weights[0];
    while (total < u && c < weights.length - 1) total += weights[++c];
    return random.normals(size).map((e, i) => prior.locs[c * size + i] + temperature * prior.scales[c * size + i] * e);
  }

  /** log p(x, z[, y]) - log q(z | x[, y]) at the z of normal numbers. */
  function logWeight(x, e, y, q = posterior(x, y)) {
    const { z, log } = q.sample(e);
    return logPrior(z) + (classes ? labelPrior[y] : 0) + logLikelihood(x, z, y) - log;
  }

  /** Probabilities q(y | x) of the model's classifier. */
  const classify = (x) => softmax(run(classifier, x));

  const labels = classes ? Array.from({ length: classes }, (_, y) => y) : [undefined];

  /**
   * Bounds on log p(x) that grow sample by sample: elbo, the mean of the log-weights, and bound, the log of the mean
   * weight; of M2 with the classes summed out, log sum_y exp(bound on log p(x, y)).
   */
  function estimator(x, random) {
    const rows = labels.map((y) => ({ y, q: posterior(x, y), weights: [] }));
    return {
      step(noise) {
        const e = noise || random.normals(size);
        for (const { y, q, weights } of rows) weights.push(logWeight(x, e, y, q));
      },
      result() {
        const count = rows[0].weights.length;
        return {
          count,
          elbo: logSumExp(rows.map(({ weights }) => sum(weights) / count)),
          bound: logSumExp(rows.map(({ weights }) => logSumExp(weights) - Math.log(count))),
        };
      },
    };
  }

  return { oneHot, decode, posterior, samplePrior, classify, estimator };
}
