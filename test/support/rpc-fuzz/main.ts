import { parseArgs } from 'node:util';
import { fuzz } from './fuzz.ts';

const { values } = parseArgs({
  options: { calls: { type: 'string', default: '20000' }, seed: { type: 'string' }, statuses: { type: 'boolean' } },
});
const calls = Number(values.calls);
const seed = values.seed === undefined ? Math.floor(Math.random() * 1e9) : Number(values.seed);
if (!Number.isSafeInteger(calls) || calls < 1 || !Number.isSafeInteger(seed)) {
  console.error('usage: npm run fuzz -- [--calls N] [--seed S] [--statuses]');
  process.exit(2);
}
console.log(`${calls} calls, seed ${seed}`);
const { findings, logged, statuses, heaps, seconds } = await fuzz({ calls, seed });
for (const finding of findings) console.log(JSON.stringify(finding));
for (const line of logged) console.log(line);
if (values.statuses) {
  for (const [rpc, counts] of statuses)
    console.log(`${rpc}: ${[...counts].map(([status, count]) => `${status} ${count}`).join(', ')}`);
}
const answered = [...statuses.values()].filter((counts) => counts.has('OK') || counts.has('left')).length;
console.log(`${statuses.size} RPCs, of which ${answered} did what was asked at least once; ${Math.round(seconds)} s`);
for (const [service, bytes] of Object.entries(heaps))
  console.log(`${service}: ${bytes.map((each) => (each / 1e6).toFixed(1)).join(', ')} MB live after each third`);
process.exit(findings.length + logged.length > 0 ? 1 : 0);
