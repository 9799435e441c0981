import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeTemporaryFolder } from '#deploy/local/end-with-me.ts';
import { freePort } from '#deploy/local/free-port.ts';
import { runToEnd, startServiceProcess } from '#deploy/local/service-process.ts';
import type { TestDatabase } from './postgres.ts';
import { bundleOf } from './programs.ts';
import { until } from './test-stack.ts';

/** `lethe owner serve` over a database: a process of its own. */
export interface OwnerBox {
  readonly address: string;
  readonly metricsAddress: string;
  /** Where the name of a crash point arms the process; it is started again when it has died. */
  readonly crashFile: string;
  /** Leaves neither process nor files behind. */
  stop(): Promise<void>;
}

/** How it is started. */
export interface OwnerBoxOptions {
  readonly database: TestDatabase;
  /** The file, as an object; its database is MAIL_DATABASE_URL, the role of the application. */
  readonly subjects: readonly object[];
  readonly name: string;
  readonly trustFile: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** Prepares the database, starts the process on a free port and waits until it serves. */
export async function startOwnerBox({
  database,
  subjects,
  name,
  trustFile,
  env = {},
}: OwnerBoxOptions): Promise<OwnerBox> {
  const { path: folder, remove } = await makeTemporaryFolder('lethe-owner-box-');
  const file = join(folder, 'mail.json');
  const crashFile = join(folder, 'crash');
  const logFile = join(folder, 'owner.log');
  const urls = { MAIL_DATABASE_URL: database.appUrl, MAIL_DATABASE_OWNER_URL: database.ownerUrl };
  const source = { url_from: 'MAIL_DATABASE_URL', owner_url_from: 'MAIL_DATABASE_OWNER_URL' };
  await writeFile(file, JSON.stringify({ database: source, subjects }));
  const address = `127.0.0.1:${await freePort()}`;
  const metricsAddress = `127.0.0.1:${await freePort({ exclude: [Number(address.split(':')[1])] })}`;
  try {
    const program = await bundleOf('libs/cli/lethe.ts');
    await runToEnd([program, 'owner', 'prepare', file], urls);
    const started = await startServiceProcess({
      name: 'owner',
      program,
      args: ['owner', 'serve', file],
      env: {
        MAIL_DATABASE_URL: database.appUrl,
        LETHE_GRPC_ADDRESS: address,
        LETHE_METRICS_ADDRESS: metricsAddress,
        LETHE_TRUST_FILE: trustFile,
        LETHE_OWNER_NAME: name,
        LETHE_CRASH_FILE: crashFile,
        ...env,
      },
      logFile,
      onGivingUp: () => undefined,
    });
    const stop = async () => {
      await started.stop();
      await remove();
    };
    try {
      await until('the box serves', async () => (await fetch(`http://${metricsAddress}/ready`)).ok, 60_000);
    } catch (error) {
      const log = await readFile(logFile, 'utf8');
      await stop();
      throw new Error(`${(error as Error).message}\n${log}`);
    }
    return {
      address,
      metricsAddress,
      crashFile,
      stop,
    };
  } catch (error) {
    await remove();
    throw error;
  }
}
