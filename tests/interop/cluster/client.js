// @grpc/grpc-js against a running cluster: client.js PROTO PKI ADDRESS MODEL IMAGE (NODE_PATH holds node_modules)
'use strict';
const assert = require('assert');
const crypto = require('crypto');
const fs = require('fs');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [proto, pki, address, modelPath, imagePath] = process.argv.slice(2);
const NAME = 'interopjs';
const MIB = 1 << 20;
const { mikura: { v1 } } = grpc.loadPackageDefinition(loader.loadSync(
  ['catalog', 'objects', 'models', 'jobs'].map((f) => `mikura/v1/${f}.proto`),
  { includeDirs: [proto], longs: Number, enums: String, keepCase: true, defaults: true, oneofs: true },
));
const creds = (who) => grpc.credentials.createSsl(...['ca.crt', `${who}.key`, `${who}.crt`]
  .map((f) => fs.readFileSync(`${pki}/${f}`)));
const operator = creds('operator-admin');
const agent = creds(`society-${NAME}-agent-1`);
const alice = creds('researcher-alice');
// UNAVAILABLE says retry (proto/mikura/v1/common.proto)
const options = {
  'grpc.service_config': JSON.stringify({
    loadBalancingConfig: [],
    methodConfig: [{
      name: [{}],
      retryPolicy: {
        maxAttempts: 5, initialBackoff: '1s', maxBackoff: '5s', backoffMultiplier: 2, retryableStatusCodes: ['UNAVAILABLE'],
      },
    }],
  }),
};
const deadline = () => ({ deadline: Date.now() + 120000 });
const rid = () => ({ id: crypto.randomBytes(16) });
const sha = (b) => crypto.createHash('sha256').update(b).digest();
const call = (c, name, m) => new Promise((yes, no) => {
  c[name](m, deadline(), (e, a) => (e ? no(e) : yes(a)));
});
const send = (c, name, header, data) => new Promise((yes, no) => {
  const s = c[name](deadline(), (e, a) => (e ? no(e) : yes(a)));
  s.write({ header });
  for (let i = 0; i < data.length; i += MIB) s.write({ data: data.subarray(i, i + MIB) });
  s.end();
});
const all = async (s) => {
  const got = [];
  for await (const m of s) got.push(m);
  return got;
};
const refused = (code, p) => p.then(() => assert.fail(`no status ${code}`),
  (e) => assert.strictEqual(e.code, code, e.message));
const get = async (c, path, offset = 0, length = 0) => Buffer.concat((await all(c.Read({
  object: { collection: NAME, case_id: 'c1', path }, offset_bytes: offset, length_bytes: length,
}, deadline()))).map((m) => m.data));

(async () => {
  const S = grpc.status;
  const catalog = new v1.Catalog(address, operator, options);
  await call(catalog, 'CreateCollection', {
    name: NAME,
    request_id: rid(),
    policy: { kind: 'other', unchecked: true, society: NAME, chunk_bytes: MIB, index_fields: ['image.width'] },
  });

  const put = new v1.Objects(address, agent, options);
  const image = fs.readFileSync(imagePath);
  const data = crypto.randomBytes(2 * MIB + MIB / 2 + 3);
  const at = { collection: NAME, case_id: 'c1' };
  const staged = await send(put, 'PutObject', {
    spec: { ...at, path: '御蔵/image.png', size_bytes: image.length, sha256: sha(image) }, request_id: rid(),
  }, image);
  assert.strictEqual(staged.object.size_bytes, image.length);
  const session = await call(put, 'BeginUpload', {
    request_id: rid(), spec: { ...at, path: 'bytes', size_bytes: data.length },
  });
  assert.strictEqual(session.chunks, 3);
  const key = { ...at, upload_id: session.upload_id };
  await Promise.all([2, 0, 1].map((index) => { // all at once
    const part = data.subarray(index * MIB, (index + 1) * MIB);
    return send(put, 'PutChunk', { ...key, index, length_bytes: part.length }, part);
  }));
  assert.deepStrictEqual([...(await call(put, 'ListChunks', key)).have_bitmap], [7]);
  await call(put, 'Complete', { ...key, request_id: rid() });
  const r = await call(put, 'CommitCase', { ...at, expected_generation: 0, count: 2, request_id: rid() });
  assert.strictEqual(r.generation, 1);
  assert.strictEqual(r.receipt.signature.length, 64);
  console.log('ok js put');

  const read = new v1.Objects(address, alice, options);
  await refused(S.PERMISSION_DENIED, get(read, 'bytes'));
  await call(catalog, 'Grant', {
    collection: NAME, grant: { subject: 'mikura://researcher/alice', role: 'GRANT_READ' },
  });
  assert((await get(read, 'bytes')).equals(data));
  assert((await get(read, '御蔵/image.png')).equals(image));
  for (const [o, n] of [[0, 1], [65535, 2], [MIB - 1, 2], [1000003, 700001], [data.length - 1, 1]]) {
    assert((await get(read, 'bytes', o, n)).equals(data.subarray(o, o + n)), `${o} ${n}`);
  }
  await refused(S.OUT_OF_RANGE, get(read, 'bytes', data.length + 1, 1));
  await refused(S.NOT_FOUND, get(read, 'none'));
  await refused(S.PERMISSION_DENIED, get(put, 'bytes'));
  console.log('ok js get');

  const expression = `collection = ${NAME} and media_type = "image/png"`;
  const asked = new v1.Catalog(address, alice, options);
  const found = (await all(asked.Query({ expression }, deadline()))).flatMap((a) => a.matches);
  assert.deepStrictEqual(found.map((m) => m.object.path), ['御蔵/image.png']);
  await refused(S.INVALID_ARGUMENT, all(asked.Query({ expression: 'collection =' }, deadline())));
  console.log('ok js query');

  const model = fs.readFileSync(modelPath);
  await send(new v1.Models(address, operator, options), 'Add', {
    name: 'quality', size_bytes: model.length, sha256: sha(model), request_id: rid(),
  }, model);
  const jobs = new v1.Jobs(address, alice, options);
  const job = await call(jobs, 'Submit', {
    request_id: rid(), cohort: { expression }, kind: 'quality', model: 'quality',
  });
  assert.strictEqual(job.items, 1);
  const last = (await all(jobs.Watch({ id: job.id }, deadline()))).pop();
  assert.strictEqual(last.state, 'JOB_DONE', last.message);
  assert.strictEqual(last.items_set_aside, 0);
  const rows = (await all(jobs.Results({ id: job.id }, deadline()))).flatMap((a) => a.items);
  assert.strictEqual(rows.length, 1);
  assert(rows[0].label);
  console.log('ok js job', rows[0].label);
})().then(() => process.exit(0), (e) => {
  console.error(e);
  process.exit(1);
});
