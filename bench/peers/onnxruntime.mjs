// ONNX Runtime's MultiHeadAttention (com.microsoft) on a model of one node: float and without a mask, so that it takes
// its flash path. Forward only. Sampled rows are checked against double before anything is timed.
//
//   npm install --ignore-scripts --prefix bench/peers
//   node bench/peers/onnxruntime.mjs --threads 1,2
//
// q, k, v and out are [1, n, heads·d], as the operator takes them; out is there before anything is timed.
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';

const usage = `usage: onnxruntime.mjs [options]
  --threads 1,2                 for each number of threads (intra-op)
  --shapes 1x1024x64,16x4096x64 heads x tokens x head size; else one head with one thread, 16 heads with more
  --seconds 1                   how long each row is timed
  --serve                       cases from standard input: pass,dtype,threads,heads,n,d,causal,seconds`;

function fail(message, status = 2) {
  console.error(`onnxruntime.mjs: ${message}`);
  process.exit(status);
}

function loadRuntime() {
  const require = createRequire(import.meta.url);
  try {
    return [require('onnxruntime-node'), require('onnxruntime-node/package.json').version];
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND') fail(`onnxruntime-node does not load: ${error.message}`, 3);
    fail('onnxruntime-node is not installed (npm install --ignore-scripts --prefix bench/peers)', 3);
  }
}

// The model, as protocol buffers of onnx.proto: a field is its number and wire type, then a varint or bytes.
function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Buffer.from([...bytes, value]);
}
const integer = (field, value) => Buffer.concat([varint(field * 8), varint(value)]);
function bytes(field, ...parts) {
  const body = Buffer.concat(parts.map((part) => Buffer.from(part)));
  return Buffer.concat([varint(field * 8 + 2), varint(body.length), body]);
}

const microsoft = 'com.microsoft';

function attentionModel({ heads, n, d }) {
  const float = 1;
  const shape = [1, n, heads * d].map((size) => bytes(1, integer(1, size)));
  const tensor = (name) => [bytes(1, name), bytes(2, bytes(1, integer(1, float), bytes(2, ...shape)))];
  const numHeads = bytes(5, bytes(1, 'num_heads'), integer(3, heads), integer(20, 2));
  const inputs = ['q', 'k', 'v'];
  const node = bytes(1, ...inputs.map((name) => bytes(1, name)), bytes(2, 'out'), bytes(4, 'MultiHeadAttention'),
    numHeads, bytes(7, microsoft));
  const graph = bytes(7, node, bytes(2, 'attention'), ...inputs.map((name) => bytes(11, ...tensor(name))),
    bytes(12, ...tensor('out')));
  const operators = [bytes(8, integer(2, 21)), bytes(8, bytes(1, microsoft), integer(2, 1))];
  return Buffer.concat([integer(1, 10), graph, ...operators]);  // IR version 10
}

// Normal random numbers: Box and Muller's method on a linear congruential generator.
function normalNumbers(count, seed) {
  const values = new Float32Array(count);
  let state = seed;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 4294967296;
  };
  for (let i = 0; i < count; i++) values[i] = Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return values;
}

// One row of one head in double.
function expectedRow({ heads, n, d }, q, k, v, head, row) {
  const at = (values, token, i) => values[(token * heads + head) * d + i];
  const weights = new Float64Array(n);
  for (let j = 0; j < n; j++) {
    for (let i = 0; i < d; i++) weights[j] += at(q, row, i) * at(k, j, i);
    weights[j] /= Math.sqrt(d);
  }
  const largest = weights.reduce((a, b) => Math.max(a, b));
  const out = new Float64Array(d);
  let sum = 0;
  for (let j = 0; j < n; j++) {
    const weight = Math.exp(weights[j] - largest);
    sum += weight;
    for (let i = 0; i < d; i++) out[i] += weight * at(v, j, i);
  }
  return out.map((value) => value / sum);
}

function check(size, q, k, v, out) {
  for (let sample = 0; sample < 6; sample++) {
    const head = (sample * 5) % size.heads, row = (sample * 997 + 13) % size.n;
    const expected = expectedRow(size, q, k, v, head, row);
    let difference = 0, norm = 0;
    expected.forEach((value, i) => {
      difference += (out[(row * size.heads + head) * size.d + i] - value) ** 2;
      norm += value ** 2;
    });
    const error = Math.sqrt(difference / norm);
    if (!(error < 1e-5)) fail(`row ${row} of head ${head} differs from double: relative error ${error}`);
  }
}

// The call that is timed, after one that is checked.
async function prepare(ort, size) {
  const count = size.n * size.heads * size.d, shape = [1, size.n, size.heads * size.d];
  const [q, k, v] = [1, 2, 3].map((seed) => normalNumbers(count, seed));
  const tensor = (values) => new ort.Tensor('float32', values, shape);
  const feeds = { q: tensor(q), k: tensor(k), v: tensor(v) }, fetches = { out: tensor(new Float32Array(count)) };
  const session = await ort.InferenceSession.create(attentionModel(size), {
    executionProviders: ['cpu'], intraOpNumThreads: size.threads, interOpNumThreads: 1, executionMode: 'sequential',
  });
  const run = () => session.run(feeds, fetches);
  check(size, q, k, v, (await run()).out.data);
  return { run, release: () => session.release() };
}

// Calls until `budget` seconds are spent, at least one.
async function medianSeconds(run, budget) {
  const samples = [];
  let total = 0;
  do {
    const start = process.hrtime.bigint();
    await run();
    samples.push(Number(process.hrtime.bigint() - start) * 1e-9);
    total += samples.at(-1);
  } while (total < budget);
  samples.sort((a, b) => a - b);
  const middle = samples.length >> 1;
  return samples.length % 2 ? samples[middle] : (samples[middle - 1] + samples[middle]) / 2;
}

function printRow(peer, { threads, heads, n, d }, seconds) {
  const rate = (4 * n * n * d * heads) / seconds * 1e-9;
  console.log(`${peer},forward,float,${threads},${heads},${n},${d},0,${(seconds * 1e3).toFixed(4)},${rate.toFixed(2)}`);
}

function positive(text, separator = ',') {
  const numbers = text.split(separator).map(Number);
  if (!numbers.every((value) => Number.isInteger(value) && value > 0)) fail(`'${text}' must be whole numbers from 1 on`);
  return numbers;
}

function readShapes(text) {
  return text.split(',').map((shape) => {
    const sizes = positive(shape, 'x');
    if (sizes.length !== 3) fail(`'${shape}' is not HEADSxTOKENSxDIM`);
    return sizes;
  });
}

function defaultShapes(threads) {
  if (threads > 1) return [[16, 4096, 64], [16, 4096, 128]];
  return [[1, 1024, 64], [1, 4096, 64], [1, 1024, 128], [1, 4096, 128]];
}

async function timeAll(ort, peer, values) {
  const seconds = Number(values.seconds);
  if (!(seconds >= 0)) fail(`--seconds is '${values.seconds}' but must be a number`);
  for (const threads of positive(values.threads)) {
    for (const [heads, n, d] of values.shapes ? readShapes(values.shapes) : defaultShapes(threads)) {
      const size = { threads, heads, n, d };
      const prepared = await prepare(ort, size);
      printRow(peer, size, await medianSeconds(prepared.run, seconds));
      await prepared.release();
    }
  }
}

// A case is prepared and warmed up once.
async function serve(ort, peer) {
  const prepared = new Map();
  for await (const line of createInterface({ input: process.stdin })) {
    const [pass, dtype, threads, heads, n, d, causal, seconds] = line.split(',');
    if (pass !== 'forward' || dtype !== 'float' || causal !== '0') fail(`'${line}' is no case of this program`);
    const size = Object.fromEntries(Object.entries({ threads, heads, n, d }).map(([name, text]) => [name, Number(text)]));
    const key = JSON.stringify(size);
    if (!prepared.has(key)) prepared.set(key, await prepare(ort, size));
    printRow(peer, size, await medianSeconds(prepared.get(key).run, Number(seconds)));
  }
}

function readOptions() {
  try {
    return parseArgs({
      options: {
        threads: { type: 'string', default: '1' }, shapes: { type: 'string' }, seconds: { type: 'string', default: '1' },
        serve: { type: 'boolean', default: false }, help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    return fail(error.message);
  }
}

const values = readOptions();
if (values.help) {
  console.log(usage);
} else {
  const [ort, version] = loadRuntime();
  const peer = `onnxruntime ${version}`;
  console.log('peer,pass,dtype,threads,heads,n,d,causal,median_ms,gflops');
  if (values.serve) await serve(ort, peer);
  else await timeAll(ort, peer, values);
}
