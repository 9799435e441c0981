import test from 'ava';
import { readRetentionSettings } from './config.ts';

const ENV = {
  LETHE_DATABASE_URL: 'postgres://app@db/x',
  LETHE_TRUST_FILE: 'trust.json',
  LETHE_SERVICE_KEY: 'key.json',
  LETHE_RETENTION_OWNERS: 'incident=incident:7400,run=run:7400',
};
const ODD = ['0', '-1', '', ' ', '5d', '1e9', 'NaN', 'Infinity', '7.5', '0x10', 'none', 'false', '999999999999999999'];

test('what nobody set keeps: a week of grace, and a ceiling', (t) => {
  t.like(readRetentionSettings(ENV), {
    graceDays: 7,
    ceilingShare: 0.5,
    ceilingRows: 1_000_000,
    ceilingShareFrom: 1_000,
    purgeSchedule: undefined,
  });
});

for (const name of ['LETHE_RETENTION_GRACE_DAYS', 'LETHE_PURGE_CEILING_SHARE', 'LETHE_PURGE_CEILING_ROWS']) {
  test(`${name} is refused at the start unless it is what it must be`, (t) => {
    for (const value of ODD) {
      t.throws(() => readRetentionSettings({ ...ENV, [name]: value }), { message: new RegExp(name) }, `"${value}"`);
    }
  });
}

test('a share is above 0 and up to 1', (t) => {
  const share = (text: string) => readRetentionSettings({ ...ENV, LETHE_PURGE_CEILING_SHARE: text }).ceilingShare;
  t.deepEqual([share('0.25'), share('1'), share('1.0')], [0.25, 1, 1]);
  for (const text of ['0.0', '1.5', '2', '50%', '.5']) t.throws(() => share(text), undefined, text);
});

test('the ceiling is off by the word off, and by nothing else', (t) => {
  const of = (text: string) =>
    readRetentionSettings({ ...ENV, LETHE_PURGE_CEILING_SHARE: text, LETHE_PURGE_CEILING_ROWS: text });
  t.like(of('off'), { ceilingShare: undefined, ceilingRows: undefined });
  for (const text of ['OFF', 'no', 'false', '-', 'undefined', 'null']) t.throws(() => of(text), undefined, text);
});

test('a schedule is a cron pattern of five fields that comes to pass', (t) => {
  const schedule = (text: string) => readRetentionSettings({ ...ENV, RETENTION_JOB_SCHEDULE_CRON: text }).purgeSchedule;
  t.is(schedule('0 3 * * *'), '0 3 * * *');
  t.is(schedule('off'), undefined);
  for (const text of ['', 'daily', '0 3 * *', '0 3 * * * *', '61 3 * * *', '0 3 30 2 *']) {
    t.throws(() => schedule(text), { message: /RETENTION_JOB_SCHEDULE_CRON/ }, text);
  }
});

test('owners are named once each, and a new one is observed for a night unless it is one of our own', (t) => {
  const { owners, observeNights } = readRetentionSettings(ENV);
  t.deepEqual(owners, [
    { name: 'incident', address: 'incident:7400' },
    { name: 'run', address: 'run:7400' },
  ]);
  t.deepEqual(['run', 'incident', 'tickets'].map(observeNights), [0, 0, 1]);
  const nights = readRetentionSettings({ ...ENV, LETHE_OBSERVE_NIGHTS: 'tickets=0,run=3' }).observeNights;
  t.deepEqual(['run', 'incident', 'tickets'].map(nights), [3, 0, 0]);
  for (const text of ['', 'incident', 'incident=x', 'a=b:1,a=c:2', 'Incident=a:1', 'in-cident=a:1', 'a=b:99999']) {
    t.throws(
      () => readRetentionSettings({ ...ENV, LETHE_RETENTION_OWNERS: text }),
      { message: /LETHE_RETENTION_OWNERS/ },
      text,
    );
  }
});
