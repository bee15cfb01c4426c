// @grpc/grpc-js against echo_server: client.js PROTO PKI PORT (NODE_PATH holds node_modules)
'use strict';
const assert = require('assert');
const fs = require('fs');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [proto, pki, port] = process.argv.slice(2);
const load = (file) => loader.loadSync(file, {
  includeDirs: [proto], longs: String, enums: String, keepCase: true, defaults: true, oneofs: true,
});
const objects = load('mikura/v1/objects.proto');
const health = load('grpc/health/v1/health.proto')['grpc.health.v1.Health'];
const reflection = load('grpc/reflection/v1/reflection.proto')['grpc.reflection.v1.ServerReflection'];
const piece = objects['mikura.v1.Objects'].PutChunk; // its request, in both directions
const echo = (path, up, down) => ({
  path: `/mikura.test.Echo/${path}`, requestStream: up, responseStream: down,
  requestSerialize: piece.requestSerialize, requestDeserialize: piece.requestDeserialize,
  responseSerialize: piece.requestSerialize, responseDeserialize: piece.requestDeserialize,
});
const Echo = grpc.makeGenericClientConstructor({
  unary: echo('Unary', false, false), up: echo('Up', true, false),
  down: echo('Down', false, true), both: echo('Both', true, true), nothing: echo('Nothing', false, false),
}, 'mikura.test.Echo');
const Health = grpc.makeGenericClientConstructor(health, 'Health');
const Reflection = grpc.makeGenericClientConstructor(reflection, 'ServerReflection');

const read = (n) => fs.readFileSync(`${pki}/${n}`);
const options = { 'grpc.max_receive_message_length': 8 << 20, 'grpc.max_send_message_length': 8 << 20 };
const creds = (ca, who) => grpc.credentials.createSsl(read(`${ca}.crt`),
  who && read(`${who}.key`), who && read(`${who}.crt`));
const client = (Kind, { ca = 'pki/ca', who = 'pki/researcher-alice', more = {} } = {}) =>
  new Kind(`127.0.0.1:${port}`, creds(ca, who), { ...options, ...more });
const deadline = (ms = 60000) => ({ deadline: Date.now() + ms });
const call = (c, name, m, o = {}, md = new grpc.Metadata()) => new Promise((yes, no) => {
  c[name](m, md, { ...deadline(), ...o }, (e, a) => (e ? no(e) : yes(a)));
});
const ask = (what) => ({ header: { collection: what } });
const refused = (code, p) => p.then(() => assert.fail(`no status ${code}`), (e) => {
  assert.strictEqual(e.code, code, e.message);
  return e;
});
const next = (s) => new Promise((yes, no) => {
  const done = (f) => (v) => {
    s.pause();
    s.removeAllListeners('data').removeAllListeners('error').removeAllListeners('end');
    s.on('error', () => {});
    f(v);
  };
  s.on('data', done(yes)).on('error', done(no)).on('end', done(() => no(new Error('ended'))));
  s.resume();
});

const tests = {
  async unary(c) {
    for (const n of [0, 1, 16384, 1500000]) {
      const a = await call(c, 'unary', { header: { case_id: '御蔵', index: n }, data: Buffer.alloc(n, 'abc') });
      assert.strictEqual(a.header.case_id, '御蔵');
      assert(a.data.equals(Buffer.alloc(n, 'abc')));
    }
  },
  async up(c) {
    const a = await new Promise((yes, no) => {
      const s = c.up(deadline(), (e, v) => (e ? no(e) : yes(v)));
      for (let i = 0; i < 20; i++) s.write({ data: Buffer.alloc(1500000, 1) });
      s.end();
    });
    assert.strictEqual(a.header.index, 20);
    assert.strictEqual(a.header.length_bytes, 30000000);
  },
  async down(c) {
    let n = 0;
    for await (const a of c.down({ header: { index: 20, length_bytes: 1500000 } }, deadline())) {
      assert.strictEqual(a.header.index, n);
      assert(a.data.equals(Buffer.alloc(1500000, n)));
      n++;
    }
    assert.strictEqual(n, 20);
  },
  async both(c) {
    const s = c.both(deadline());
    for (const n of [...Array(100).keys(), 1500000, 1500000]) {
      s.write({ data: Buffer.alloc(n, 'z') });
      assert((await next(s)).data.equals(Buffer.alloc(n, 'z')));
    }
    s.end();
    assert.strictEqual((await next(s).catch((e) => e)).message, 'ended');
  },
  async errorText(c) {
    const e = await refused(grpc.status.NOT_FOUND, call(c, 'unary', ask('fail')));
    assert.strictEqual(e.details, '御蔵: 100% weg\nZeile zwei, é');
    await refused(grpc.status.UNIMPLEMENTED, call(c, 'nothing', {}));
  },
  async oversize(c) {
    await refused(grpc.status.RESOURCE_EXHAUSTED, call(c, 'unary', { data: Buffer.alloc(3 << 20) }));
    await call(c, 'unary', {});
  },
  async deadlineCancel(c) {
    const before = (await call(c, 'unary', ask('held'))).header.index;
    await refused(grpc.status.DEADLINE_EXCEEDED, call(c, 'unary', ask('hang'), deadline(200)));
    while ((await call(c, 'unary', ask('held'))).header.index < before + 1);
    await refused(grpc.status.CANCELLED, new Promise((yes, no) => {
      const s = c.unary(ask('hang'), deadline(), (e, a) => (e ? no(e) : yes(a)));
      call(c, 'unary', {}).then(() => s.cancel());
    }));
    while ((await call(c, 'unary', ask('held'))).header.index < before + 2);
    const s = c.down({ header: { index: 1000, length_bytes: 1500000 } }, deadline());
    await next(s);
    s.cancel();
    await call(c, 'unary', {});
  },
  async metadataBin(c) {
    for (let n = 0; n < 9; n++) {
      const blob = Buffer.from([0, 255, 17, 44, 10, 13, 0, 128, 7]).subarray(0, n);
      const md = new grpc.Metadata();
      md.set('x-blob-bin', blob);
      let trailer;
      const a = await new Promise((yes, no) => {
        const s = c.unary(ask('metadata'), md, deadline(), (e, v) => (e ? no(e) : yes(v)));
        s.on('status', (st) => { [trailer] = st.metadata.get('x-blob-bin'); });
      });
      assert(a.data.equals(blob));
      await new Promise(setImmediate); // the status event follows the callback
      assert(trailer.equals(blob));
    }
  },
  async gzip() {
    const c = client(Echo, { more: { 'grpc.default_compression_algorithm': 2 } });
    const e = await refused(grpc.status.UNIMPLEMENTED, call(c, 'unary', { data: Buffer.alloc(100000) }));
    assert.match(e.details, /identity/);
    c.close();
  },
  async health(c) {
    const h = client(Health);
    const mine = { service: 'mikura.test.Echo' };
    assert.strictEqual((await call(h, 'Check', {})).status, 'SERVING');
    await refused(grpc.status.NOT_FOUND, call(h, 'Check', { service: 'none' }));
    const w = h.Watch(mine, deadline());
    assert.strictEqual((await next(w)).status, 'SERVING');
    await call(c, 'unary', ask('down'));
    assert.strictEqual((await next(w)).status, 'NOT_SERVING');
    await call(c, 'unary', ask('up'));
    assert.strictEqual((await next(w)).status, 'SERVING');
    w.cancel();
    h.close();
  },
  async reflection() {
    const r = client(Reflection);
    const s = r.ServerReflectionInfo(deadline());
    s.write({ list_services: '' });
    const names = (await next(s)).list_services_response.service.map((v) => v.name);
    assert(names.includes('mikura.test.Echo') && names.includes('mikura.v1.Objects'), names.join());
    s.write({ file_containing_symbol: 'mikura.v1.Objects' });
    const files = (await next(s)).file_descriptor_response.file_descriptor_proto;
    s.write({ file_by_filename: 'mikura/v1/common.proto' });
    files.push(...(await next(s)).file_descriptor_response.file_descriptor_proto);
    s.write({ file_containing_symbol: 'mikura.v1.None' });
    assert.strictEqual((await next(s)).error_response.error_code, grpc.status.NOT_FOUND);
    s.end();
    // a client made of nothing but what the server told
    const set = Buffer.concat(files.map((f) => {
      const head = [0x0a];
      let n = f.length;
      for (; n > 127; n >>= 7) head.push((n & 127) | 128);
      return Buffer.concat([Buffer.from([...head, n]), f]);
    }));
    const told = loader.loadFileDescriptorSetFromBuffer(set, { keepCase: true, longs: String });
    const o = client(grpc.makeGenericClientConstructor(told['mikura.v1.Objects'], 'Objects'));
    const a = await call(o, 'Stat', { object: { path: 'a/b' } });
    assert.strictEqual(a.object.path, 'a/b');
    assert.strictEqual(a.size_bytes, '18446744073709551614');
    o.close();
    r.close();
  },
  async wrongCertificates() {
    for (const how of [{ who: 'foreign/researcher-alice' }, { who: 'pki/researcher-old' },
      { ca: 'foreign/ca' }, { who: null }]) {
      const c = client(Echo, how);
      await refused(grpc.status.UNAVAILABLE, call(c, 'unary', {}));
      c.close();
    }
  },
};

(async () => {
  const c = client(Echo);
  for (const [name, fn] of Object.entries(tests)) {
    await fn(c);
    console.log(`ok js ${name}`);
  }
  c.close();
})().catch((e) => {
  console.error(e);
  process.exit(1);
});
