import { freePort } from './free-port.ts';

process.send?.(await freePort({ wanted: Number(process.argv[2]) }));
// The channel to the parent keeps this process, and with it the port, until the parent has seen all.
process.on('message', () => undefined);
