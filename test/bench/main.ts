import { benchArtifacts } from './artifacts.ts';
import type { Bench } from './bench.ts';
import { benchBulk } from './bulk.ts';
import { benchCascade } from './cascade.ts';
import { benchExecutions } from './executions.ts';
import { benchIdle } from './idle.ts';
import { benchManyJobs } from './many-jobs.ts';
import { benchPurge } from './purge.ts';
import { benchRpc } from './rpc.ts';
import { benchSaga } from './saga.ts';

const BENCHES: Readonly<Record<string, Bench>> = {
  rpc: benchRpc,
  artifacts: benchArtifacts,
  purge: benchPurge,
  executions: benchExecutions,
  cascade: benchCascade,
  saga: benchSaga,
  idle: benchIdle,
  bulk: benchBulk,
  'many-jobs': benchManyJobs,
};

const [name = '', ...flags] = process.argv.slice(2);
const bench = BENCHES[name];
if (!bench) {
  console.error(`usage: npm run bench -- NAME [--json], where NAME is one of ${Object.keys(BENCHES).join(', ')}`);
  process.exit(2);
}
const figures = await bench();
if (flags.includes('--json')) console.log(JSON.stringify({ bench: name, figures }));
else for (const [figure, value] of Object.entries(figures)) console.log(`${figure.padEnd(40)} ${value}`);
process.exit(0);
