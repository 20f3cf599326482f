// The official Socket.IO server: each client in a room of its user, POST /push/<room> emits.
const { createServer } = require('node:http');
const { Server } = require(`${process.argv[2]}/node_modules/socket.io`);

const http = createServer((request, answer) => {
  let body = '';
  request.on('data', (data) => (body += data));
  request.on('end', () => {
    const room = request.url.slice('/push/'.length);
    (room === 'all' ? io : io.to(room)).emit('msg', JSON.parse(body));
    answer.end('queued');
  });
});
const io = new Server(http, process.argv[4] ? { connectionStateRecovery: {} } : {});
io.on('connection', (socket) => socket.join(socket.handshake.auth.user));
http.listen(Number(process.argv[3]), '127.0.0.1');
