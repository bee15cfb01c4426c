// tests/bench/onnx/ort.js - ONNX Runtime's CPU provider on one thread, behind a pipe.
//   node ort.js MODULES; on stdin lines of JSON {model, shape, times}: x is all 0.5; answers {seconds: [...], cpu: of one run}
const path = require('path');
const ort = require(path.join(process.argv[2], 'onnxruntime-node'));
const lines = require('readline').createInterface({ input: process.stdin });

async function one(ask) {
  const session = await ort.InferenceSession.create(ask.model, {
    executionProviders: ['cpu'], intraOpNumThreads: 1, interOpNumThreads: 1, executionMode: 'sequential',
    graphOptimizationLevel: 'all',
  });
  const n = ask.shape.reduce((a, b) => a * b, 1);
  const x = new ort.Tensor('float32', new Float32Array(n).fill(0.5), ask.shape);
  const seconds = [];
  await session.run({ x });
  const cpu = process.cpuUsage();
  for (let i = 0; i < ask.times; i++) {
    const t = process.hrtime.bigint();
    await session.run({ x });
    seconds.push(Number(process.hrtime.bigint() - t) * 1e-9);
  }
  const used = process.cpuUsage(cpu);
  await session.release();
  return { seconds, cpu: (used.user + used.system) * 1e-6 / ask.times };
}

(async () => {
  for await (const line of lines) console.log(JSON.stringify(await one(JSON.parse(line))));
})();
