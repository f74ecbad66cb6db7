/* The forward pass of a network in ONNX Runtime, images per second:
 *
 *     NODE_PATH=DIR/node_modules node ort.js FILE.onnx ARCH BATCH CxHxW THREADS
 *
 * DIR is where `npm install --ignore-scripts onnxruntime-node` was done. Prints one JSON object, the
 * best of 3 to 9 runs after one that does not count, as bench.py does. */
'use strict';
const ort = require('onnxruntime-node');
const [file, arch, batch, shape, threads] = process.argv.slice(2);

async function main() {
  const session = await ort.InferenceSession.create(file, {
    executionProviders: ['cpu'], graphOptimizationLevel: 'all', executionMode: 'sequential',
    intraOpNumThreads: Number(threads), interOpNumThreads: 1,
  });
  const dims = [Number(batch), ...shape.split('x').map(Number)];
  const x = Float32Array.from({ length: dims.reduce((a, b) => a * b) }, () => Math.random());
  const feeds = { x: new ort.Tensor('float32', x, dims) };
  const start = process.hrtime.bigint();
  let best = Infinity;
  await session.run(feeds);
  for (let runs = 0; runs < 3 || (runs < 9 && process.hrtime.bigint() - start < 4000000000n); runs++) {
    const begin = process.hrtime.bigint();
    await session.run(feeds);
    best = Math.min(best, Number(process.hrtime.bigint() - begin) / 1e9);
  }
  const version = require('onnxruntime-node/package.json').version;
  console.log(JSON.stringify({ arch, batch: dims[0], threads: Number(threads), onnxruntime: version,
                               forward: dims[0] / best }));
}
main().catch((e) => { console.error(String(e)); process.exit(1); });
