import { Server, ServerCredentials } from '@grpc/grpc-js';

// The floor: grpc-js with nothing on it. It answers every call with the bytes that it got, and tells its port.
const identity = (bytes: Buffer): Buffer => bytes;
const server = new Server();
server.addService(
  {
    echo: {
      path: '/bench.Echo/Echo',
      requestStream: false,
      responseStream: false,
      requestSerialize: identity,
      requestDeserialize: identity,
      responseSerialize: identity,
      responseDeserialize: identity,
    },
  },
  { echo: (call: { request: Buffer }, respond: (error: null, bytes: Buffer) => void) => respond(null, call.request) },
);
server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  process.send?.(port);
});
