import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { platform } from 'node:os';
import test from 'ava';
import { startForeignParticipant } from './foreign-participant.ts';
import { startMemoryOwner } from './memory-owner.ts';
import { makeTcpGate } from './tcp-gate.ts';

const onLinux = platform() === 'linux' ? test : test.skip;

onLinux('a port that a test gives up for a while is taken by nobody before it comes back', async (t) => {
  const owner = await startMemoryOwner([], 'ports');
  const participant = await startForeignParticipant(0);
  const gate = await makeTcpGate();
  t.teardown(async () => {
    await Promise.all([owner.close(), participant.close(), gate.close()]);
  });
  const addresses = [owner.address, participant.address, gate.address];
  await Promise.all([owner.down(), participant.down()]);
  gate.refuse();

  const [outgoing = ''] = (await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8')).split('\t');
  const program = new URL('../../deploy/local/free-port.fixture.ts', import.meta.url);
  for (const address of addresses) {
    const port = Number(address.split(':')[1]);
    t.true(port < Number(outgoing), `an outgoing connection can take ${port}`);
    const other = fork(program, [String(port)]);
    const [chosen] = await once(other, 'message');
    other.kill();
    t.not(chosen, port, 'another process can choose it');
  }

  await Promise.all([owner.up(), participant.up()]);
  t.deepEqual([owner.address, participant.address], addresses.slice(0, 2));
});
