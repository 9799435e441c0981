import type { Socket } from 'node:net';
import type { ChannelCredentials } from '@grpc/grpc-js';

/**
 * Makes these credentials close a connection on which nothing was ever heard as soon as its channel is closed. grpc-js
 * leaves it to the other end, which may be frozen for hours, or gone.
 */
export function endUnanswered(credentials: ChannelCredentials): ChannelCredentials {
  const create = credentials._createSecureConnector.bind(credentials);
  credentials._createSecureConnector = (...about) => {
    const connector = create(...about);
    const sockets = new Set<Socket>();
    let isUnwanted = false;
    return {
      connect(socket) {
        if (isUnwanted) return Promise.reject(new Error('The channel is closed.'));
        sockets.add(socket);
        socket.once('close', () => sockets.delete(socket));
        return connector.connect(socket);
      },
      waitForReady: () => connector.waitForReady(),
      getCallCredentials: () => connector.getCallCredentials(),
      destroy() {
        isUnwanted = true;
        connector.destroy();
        for (const socket of sockets) if (socket.bytesRead === 0) socket.destroy();
      },
    };
  };
  return credentials;
}
