import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import {
  CreateBucketCommand,
  ListMultipartUploadsCommand,
  ListObjectVersionsCommand,
  PutBucketVersioningCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { endWithMe, makeTemporaryFolder } from '#deploy/local/end-with-me.ts';
import { freePort } from '#deploy/local/free-port.ts';
import { holdName } from '#deploy/local/hold-name.ts';
import { hasProgram } from './require.ts';

const run = promisify(execFile);

/** Whether Ceph's programs are on this machine. */
export const hasCeph = (): boolean =>
  ['ceph', 'ceph-mon', 'ceph-mgr', 'ceph-osd', 'radosgw', 'radosgw-admin'].every(hasProgram);

/** A real S3 server on this machine, with its data in memory. */
export interface CephGateway {
  readonly endpoint: string;
  readonly region: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** A client that is not the product's. */
  readonly s3: S3Client;
  createBucket(name: string, options: { versioned: boolean; objectLock?: boolean }): Promise<void>;
  /** Gives a bucket another name, so that another can be put in its place under the eyes of who uses it. */
  renameBucket(name: string, newName: string): Promise<void>;
  /** The settings of a service that keeps its objects in this bucket. */
  environment(bucket: string): Record<string, string>;
  /** The keys of every version, marker and open upload in the bucket, in order; one that has several comes often. */
  listEverything(bucket: string): Promise<string[]>;
  /** Kills the gateway alone; what it has stored stays. */
  kill9(): Promise<void>;
  restart(): Promise<void>;
  stop(): Promise<void>;
}

const READY_DEADLINE_MS = 30_000;
const START_ATTEMPTS = 3;

/**
 * Starts one node of Ceph: monitor, manager, a storage daemon in memory and the gateway, in a folder of its own. One
 * runs at a time on a machine, since two that start together on few cores can both starve; others wait. A node that
 * does not come up is given up and tried again.
 */
export async function startCephGateway(): Promise<CephGateway> {
  const release = await takeTurn();
  for (let attempt = 1; ; attempt += 1) {
    try {
      const gateway = await startNode();
      return {
        ...gateway,
        async stop() {
          await gateway.stop();
          release();
        },
      };
    } catch (error) {
      if (attempt < START_ATTEMPTS) continue;
      release();
      throw error;
    }
  }
}

/** Waits until no other process of this machine has its turn. A turn ends with its process, however that ends. */
async function takeTurn(): Promise<() => void> {
  for (;;) {
    const release = await holdName('ceph');
    if (release) return release;
    await delay(200);
  }
}

async function startNode(): Promise<CephGateway> {
  const { path: folder, remove } = await makeTemporaryFolder('lethe-ceph-');
  const children = new Set<ChildProcess>();
  const conf = join(folder, 'ceph.conf');
  const [monPort, rgwPort] = [await freePort(), await freePort()];
  const fsid = randomUUID();
  await writeFile(
    conf,
    `[global]
fsid = ${fsid}
mon host = v1:127.0.0.1:${monPort}
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd crush chooseleaf type = 0
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
mon warn on pool no redundancy = false
ms bind msgr2 = false
run dir = ${folder}
log file = ${folder}/$name.log
admin socket = ${folder}/$name.asok
mon data = ${folder}/mon
mgr data = ${folder}/mgr
osd data = ${folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd class load list = *
osd class default list = *
rgw data = ${folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:${rgwPort} tcp_nodelay=1
rgw lc debug interval = 0
mgr initial modules =
`,
  );
  for (const name of ['mon', 'mgr', 'osd', 'rgw']) await mkdir(join(folder, name));
  const start = async (program: string, ...args: string[]): Promise<ChildProcess> => {
    const log = await open(join(folder, `${program}.out`), 'a');
    const child = spawn(program, ['-c', conf, ...args, '-f'], { stdio: ['ignore', log.fd, log.fd], cwd: folder });
    await log.close();
    endWithMe(child, 'KILL');
    children.add(child);
    child.once('exit', () => children.delete(child));
    return child;
  };
  // A monitor that has only just formed its quorum refuses commands for a moment, on a busy machine for longer.
  const ceph = async (...args: string[]): Promise<string> => {
    for (const deadline = Date.now() + READY_DEADLINE_MS; ; await delay(200)) {
      try {
        return (await run('ceph', ['-c', conf, '--connect-timeout', '10', ...args])).stdout;
      } catch (error) {
        if (Date.now() > deadline) throw error;
      }
    }
  };
  const stop = async (): Promise<void> => {
    await Promise.all([...children].map(kill9));
    await remove();
  };

  try {
    const monmap = join(folder, 'monmap');
    await run('monmaptool', ['--create', '--addv', 'a', `[v1:127.0.0.1:${monPort}]`, '--fsid', fsid, monmap]);
    await run('ceph-mon', ['-c', conf, '--mkfs', '-i', 'a', '--monmap', monmap]);
    await start('ceph-mon', '-i', 'a');
    await ceph('-s');
    await start('ceph-mgr', '-i', 'x');
    const osdUuid = randomUUID();
    await ceph('osd', 'create', osdUuid);
    await run('ceph-osd', ['-c', conf, '-i', '0', '--mkfs', '--osd-uuid', osdUuid]);
    await start('ceph-osd', '-i', '0');
    for (const deadline = Date.now() + READY_DEADLINE_MS; ; await delay(200)) {
      if (JSON.parse(await ceph('osd', 'stat', '--format', 'json')).num_up_osds === 1) break;
      if (Date.now() > deadline)
        throw new Error(`the storage daemon does not come up: ${await tail(join(folder, 'ceph-osd.out'))}`);
    }
    const administer = async (...args: string[]): Promise<string> =>
      (await run('radosgw-admin', ['-c', conf, ...args, '--uid=lethe'], { timeout: READY_DEADLINE_MS })).stdout;
    const created = JSON.parse(await administer('user', 'create', '--display-name=lethe'));
    const { access_key: accessKeyId, secret_key: secretAccessKey } = created.keys[0];
    const endpoint = `http://127.0.0.1:${rgwPort}`;
    const startGateway = async (): Promise<ChildProcess> => {
      const child = await start('radosgw', '-n', 'client.rgw');
      for (const deadline = Date.now() + READY_DEADLINE_MS; ; ) {
        const answered = await fetch(endpoint).then(
          (response) => response.status < 500,
          () => false,
        );
        if (answered) return child;
        if (Date.now() > deadline)
          throw new Error(`the gateway does not answer: ${await tail(join(folder, 'radosgw.out'))}`);
        await delay(50);
      }
    };
    let gateway = await startGateway();
    const s3 = new S3Client({
      endpoint,
      region: 'us-east-1',
      forcePathStyle: true,
      credentials: { accessKeyId, secretAccessKey },
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
    });
    return {
      endpoint,
      region: 'us-east-1',
      accessKeyId,
      secretAccessKey,
      s3,
      async createBucket(Bucket, { versioned, objectLock = false }) {
        await s3.send(new CreateBucketCommand({ Bucket, ObjectLockEnabledForBucket: objectLock }));
        if (!versioned) return;
        await s3.send(new PutBucketVersioningCommand({ Bucket, VersioningConfiguration: { Status: 'Enabled' } }));
      },
      async renameBucket(name, newName) {
        await administer('bucket', 'link', `--bucket=${name}`, `--bucket-new-name=${newName}`);
      },
      environment: (bucket) => ({
        LETHE_OBJECT_STORE: 's3',
        LETHE_S3_ENDPOINT: endpoint,
        LETHE_S3_BUCKET: bucket,
        LETHE_S3_REGION: 'us-east-1',
        AWS_ACCESS_KEY_ID: accessKeyId,
        AWS_SECRET_ACCESS_KEY: secretAccessKey,
      }),
      async listEverything(Bucket) {
        const [versions, uploads] = await Promise.all([
          s3.send(new ListObjectVersionsCommand({ Bucket })),
          s3.send(new ListMultipartUploadsCommand({ Bucket })),
        ]);
        // What is told of a bucket is evidence, and a first page of it would be none.
        if (versions.IsTruncated || uploads.IsTruncated) throw new Error('the bucket has more than one page');
        const all = [versions.Versions, versions.DeleteMarkers, uploads.Uploads].flatMap((part = []) => part);
        return all.map(({ Key = '' }) => Key).toSorted();
      },
      kill9: () => kill9(gateway),
      async restart() {
        await kill9(gateway);
        gateway = await startGateway();
      },
      async stop() {
        s3.destroy();
        await stop();
      },
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function kill9(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await gone;
}

const tail = async (path: string): Promise<string> => (await readFile(path, 'utf8').catch(() => '')).slice(-1_000);
