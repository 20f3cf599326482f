// The suite of the protocol, unmodified (test_durable_judges.py). NODES: addresses of nodes. Several get its requests in turn.

import http from 'node:http';
import { runConformanceTests } from '@durable-streams/server-conformance-tests';

const nodes = process.env.NODES.split(' ');

/** The address of a proxy that gives each node a request in turn. */
async function balanced() {
  let turn = 0;
  const proxy = http.createServer((request, response) => {
    const { hostname, port } = new URL(nodes[turn++ % nodes.length]);
    const { method, url: path, headers } = request;
    const up = http.request({ hostname, port, path, method, headers, agent: false }, (answer) => {
      const { connection, ...others } = answer.headers;
      response.writeHead(answer.statusCode, others);
      answer.pipe(response);
      answer.on('error', () => response.destroy());
    });
    up.on('error', () => response.destroy());
    response.on('close', () => up.destroy());
    request.pipe(up);
  });
  await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${proxy.address().port}`;
}

const baseUrl = nodes.length > 1 ? await balanced() : nodes[0];
runConformanceTests({ baseUrl: `${baseUrl}/durable`, longPollTimeoutMs: 3000 });
